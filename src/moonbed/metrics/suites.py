"""Named sets of metrics.

`published` computes what a two-moons write-up reported, to the letter, so that its numbers can be reproduced and
explained. `default` holds samples against the exact law, and puts the panel first: it says what is wrong; then N50,
which says how much. No one number sees everything, so the others are there for what the panel leaves out or says less
clearly:

| defect | read |
|---|---|
| noise too wide or too thin, shift, curve out of place | panel; NLL, KSD |
| weights of modes | mode weights (one question, so it needs no adjustment); panel |
| a piece of a mode missing | panel; aggregated MMD, coverage |
| points between the modes, exploded points | panel; off support, NLL; exploded |
| copies of training points | train distance, alone |
| anything else | log density KS, aggregated MMD, C2ST |

Only a law with a score has a KSD, and only one with modes has weights: `Metric.missing` says what an evaluation lacks.

Against `published`, where the questions are the same:

- MMD. Published: sqrt(max(0, MMD²)) at bandwidths above all detail. Most perfect samplers have a negative MMD², and
  clamped all of them are "0". Default: one-sample, from the width of the law down to a 64th of it, signed.
- Energy distance. Its values follow those of sliced W1: left out. Sliced W1 itself is one-sample in `default`.
- C2ST. Published: folds drawn with seed 42, the random numbers that `make_moons(random_state=42)` was shuffled with
  (see `C2ST`). Default: folds from the evaluation's stream.
- C2ST again. 2|AUC - 1/2| is stated as a mean over folds, but the published values go down where samples get worse,
  and so does 2|mean AUC - 1/2|: both stand here. Default: the second, which is biased up less.
- C2ST with a support vector machine sees nothing smaller than a missing piece of arc.
  Default: gradient boosting on two halves, which is faster and sees more. Logistic regression, tried first by the
  write-up, sees a shift of the mean only: left out.

The shared seed lives here and nowhere else.

`anatomy` holds what an error budget is taken of: distances of the samples, and what the model itself gives away. Its
last two need the model: they can be asked of runs, not of a file of samples.
"""

from __future__ import annotations

from moonbed.metrics.base import Metric
from moonbed.metrics.density import NLL, Exploded, LogDensityKS, ModeWeights, OffSupport
from moonbed.metrics.detection import N50
from moonbed.metrics.kernels import KSD, MMDAggregated
from moonbed.metrics.model import KL, Girsanov
from moonbed.metrics.neighbours import Coverage, Memorisation, Precision
from moonbed.metrics.panel import Panel
from moonbed.metrics.transport import SlicedW1Law
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
        Panel(),
        N50(),
        NLL(),
        KSD(),
        MMDAggregated(),
        ModeWeights(),
        Memorisation(),
        LogDensityKS(),
        OffSupport(),
        Exploded(),
        Precision(),
        Coverage(),
        SlicedW1Law(),
        C2ST(classifier="boosting", folds=2, repeats=1, score="mean-auc"),
    ),
    "anatomy": (SlicedW1Law(), NLL(), KSD(), OffSupport(), Girsanov(), KL()),
}
