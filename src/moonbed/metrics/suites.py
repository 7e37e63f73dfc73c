"""Named sets of metrics.

`published` computes what a two-moons write-up reported, to the letter, so that its numbers can be reproduced and
explained. `default` asks the same questions without its mistakes:

- MMD. Published: sqrt(max(0, MMD²)). Most perfect samplers have a negative MMD², and clamped all of them are "0".
  Default: MMD² itself, signed.
- Energy. Published: the root of the V-statistic, which is biased up and for perfect samples far from 0. Default: the
  U-statistic, unbiased and signed.
- C2ST. Published: folds drawn with seed 42, the random numbers that `make_moons(random_state=42)` was shuffled with
  (see `C2ST`). Default: folds from the evaluation's stream.
- C2ST again. 2|AUC - 1/2| is stated as a mean over folds, but the published values go down where samples get worse,
  and so does 2|mean AUC - 1/2|: both stand here.
- C2ST with a support vector machine takes 40 s at n = 5,000 and sees nothing smaller than a missing piece of arc.
  Default: gradient boosting, which is faster and sees more. Logistic regression, tried first by the write-up, sees a
  shift of the mean only: left out.

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
        C2ST(score="mean-auc", splitter_seed=42),
        C2ST(classifier="logistic", score="auc", splitter_seed=42),
        C2ST(classifier="logistic", score="accuracy", splitter_seed=42),
    ),
    "default": (
        MMD(),
        Energy(),
        SlicedW1(),
        C2ST(classifier="boosting", repeats=1, score="auc"),
        C2ST(classifier="boosting", repeats=1, score="accuracy"),
    ),
}
