"""The face: tables and figures from stored results."""
