"""The page: results, figures and live models in one HTML file that opens from disk."""
