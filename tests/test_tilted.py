"""The tilted law against the laws of targets, closed forms, another quadrature, and what metrics ask of it."""

import math

import pytest
import torch

from moonbed import laws
from moonbed.component import SpecError
from moonbed.metrics.law import known
from moonbed.rng import Rng
from moonbed.targets import Boxes, BoxMixture, GaussianMixture, Mixture, Target
from moonbed.targets.boxes import Checkerboard
from moonbed.targets.curves import Circles, Pinwheel, SwissRoll, TwoMoons
from moonbed.targets.lifted import Lifted
from moonbed.targets.mixtures import EightGaussians, FortyModes, FractalTree
from moonbed.targets.published import PublishedMoons
from moonbed.targets.quadrature import Quadrature
from moonbed.targets.tilted import Tilt, Tilted


class Line(GaussianMixture):
    """Two overlapping labels of two Gaussians each on a line; not of ours."""

    classes = 2

    def components(self):
        weights, centres = torch.tensor([0.3, 0.2, 0.1, 0.4]), torch.tensor([[-1.5], [0.0], [0.5], [2.0]])
        return Mixture(weights.double(), centres.double(), torch.tensor([[0.5], [0.3], [0.4], [0.6]]).double())


TABLE = [
    Tilted(),
    Tilted(guidance=0.5, label=1),
    Tilted(target=Circles(), guidance=4),
    Tilted(target=EightGaussians(), label=2, guidance=0.2),
    Tilted(target=Pinwheel(arms=3), label=1),
    Tilted(target=FractalTree(depth=2, classes=3), label=2, guidance=4),
    Tilted(target=FortyModes(), label=7, guidance=3),
    Tilted(target=Checkerboard(), label=3),
    Tilted(target=Line(), guidance=2.5),
    Tilted(target=Line(), guidance=0.3, label=1),
    Tilted(target=PublishedMoons(noise=0.2)),
]
WEIGHTS = [0, 0.5, 1, 2, 4]
SMOOTH = [TwoMoons(noise=0.2), Circles(noise=0.1), EightGaussians(std=1.5), Pinwheel(noise=0.2), FractalTree(depth=2), Line()]


def name(value):
    if isinstance(value, Tilted):
        return f"{type(value.target).__name__}-{value.label}-{value.guidance:g}"
    return getattr(value, "__name__", type(value).__name__)


@pytest.mark.parametrize("law", laws.TARGET_LAWS, ids=name)
@pytest.mark.parametrize("target", TABLE, ids=name)
def test_law(target, law):
    law(target)
