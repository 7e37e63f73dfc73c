"""What the truth is: distributions with an exact law at every noise level."""

from moonbed.component import discover
from moonbed.targets.base import Target
from moonbed.targets.boxes import Boxes, BoxMixture
from moonbed.targets.curves import Curve
from moonbed.targets.mixtures import GaussianMixture, Mixture

__all__ = ["BoxMixture", "Boxes", "Curve", "GaussianMixture", "Mixture", "Target"]

discover(__name__)
