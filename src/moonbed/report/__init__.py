"""The face: tables and figures from stored results."""

from moonbed.report.tables import to_markdown as table

__all__ = ["table"]
