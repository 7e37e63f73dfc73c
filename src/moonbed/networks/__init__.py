"""Networks: functions F(x, c_noise) with weights."""

from moonbed.component import discover
from moonbed.networks.base import Embedding, Network

__all__ = ["Embedding", "Network"]

discover(__name__)
