"""The page: results, figures and live models in one HTML file that opens from disk."""

from moonbed.report.page.build import fragment, page

__all__ = ["fragment", "page"]
