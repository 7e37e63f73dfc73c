"""Numbers about samples, and their doubt."""

from moonbed.component import discover
from moonbed.metrics.base import Evaluation, Metric

__all__ = ["Evaluation", "Metric"]

discover(__name__)
