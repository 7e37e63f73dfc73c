"""Named sets of metrics.

`published` computes what a two-moons write-up reported, to the letter, so that its numbers can be reproduced and
explained. `default` asks the same four questions without its three mistakes:

| metric | published | default | why |
|---|---|---|---|
| MMD | sqrt(max(0, mean of MMD²)) | the mean itself, signed | most perfect samplers have a negative value: clamped, all are "0" |
| energy | root of the V-statistic | U-statistic, signed | the V-statistic is biased up, and its root is far from 0 for perfect samples |
| C2ST | folds drawn with seed 42 | folds from the evaluation's stream | `make_moons(random_state=42)` is shuffled by the same random numbers: see `C2ST` |
| logistic C2ST | tried first | left out | sees a shift of the mean only |

The shared seed lives here and nowhere else.
"""

from __future__ import annotations

from moonbed.metrics.base import Metric
from moonbed.metrics.two_sample import C2ST, MMD, Energy, SlicedW1

__all__ = ["SUITES"]

SUITES: dict[str, tuple[Metric, ...]] = {
    "published": (
        MMD(root=True),
        Energy(statistic="V", root=True),
        SlicedW1(directions=256),
        C2ST(score="auc", splitter_seed=42),
        C2ST(score="accuracy", splitter_seed=42),
        C2ST(classifier="logistic", score="auc", splitter_seed=42),
        C2ST(classifier="logistic", score="accuracy", splitter_seed=42),
    ),
    "default": (
        MMD(),
        Energy(),
        SlicedW1(),
        C2ST(score="auc"),
        C2ST(score="accuracy"),
    ),
}
