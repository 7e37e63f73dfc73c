"""Numbers about samples, and their doubt."""

from moonbed.component import discover
from moonbed.metrics.base import Evaluation, Law, Metric, MissingError

__all__ = ["Evaluation", "Law", "Metric", "MissingError"]

discover(__name__)
