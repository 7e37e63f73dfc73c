"""A trained model as numbers that a page can run.

A network becomes a *tape*, a list of array operations with its weights; a sampler becomes a *plan*, the linear
combinations that it forms of noise and of what the network answered. Whoever reads both needs neither Python nor torch,
and no schedule, prediction or sampler has to be written a second time.
"""

from moonbed.live.models import Document, document
from moonbed.live.tape import Untraceable

__all__ = ["Document", "Untraceable", "document"]
