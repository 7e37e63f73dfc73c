"""The doubt about a number: its null distribution, its spread over seeds, its interval.

The truth can be sampled, so the law of any metric under a perfect sampler is simulated: draw from the exact law,
evaluate, repeat. These values are its *floor*. With B of them the Monte Carlo p-value of an observed value v is

    p = (1 + #{null >= v}) / (B + 1)

v being one more draw under the null, P(p <= a) <= a holds exactly for every a and B (Phipson and Smyth 2010); the
smallest p there can be is 1/(B + 1). Several seeds are held against the floor by their ranks.

Values that are not finite are kept. Nothing is dropped to save a mean: the run that exploded is part of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import NamedTuple

__all__ = [
    "Floor",
    "Spread",
    "equivalence_p",
    "holm",
    "interval",
    "paired_p",
    "seeds_for_difference",
    "seeds_for_equivalence",
    "share_interval",
    "spread",
]


@dataclass(frozen=True)
class Floor:
    """Values of one metric for independent draws from the exact law, in its units. Raises ValueError without any.

    Infinite draws take their place in the order. A NaN draw makes mean and quantiles NaN, and in a p-value counts as
    more extreme than whatever was observed: it can only make p larger.
    """

    values: tuple[float, ...]

    def __init__(self, values: Iterable[float]) -> None:
        object.__setattr__(self, "values", tuple(float(value) for value in values))
        if not self.values:
            raise ValueError("a floor needs at least one draw from the exact law")

    @property
    def draws(self) -> int:
        """How many values there are."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Their mean: not 0 for a biased metric."""
        return _mean(self.values)

    @property
    def lo(self) -> float:
        """Their 5 % quantile."""
        return self.quantile(0.05)

    @property
    def hi(self) -> float:
        """Their 95 % quantile."""
        return self.quantile(0.95)

    def quantile(self, q: float) -> float:
        """Quantile q in [0, 1], linear between order statistics (NumPy's "linear"); raises ValueError outside."""
        if not 0 <= q <= 1:
            raise ValueError(f"q must lie in [0, 1], given {q}")
        if any(map(math.isnan, self.values)):
            return math.nan
        ordered, place = sorted(self.values), q * (self.draws - 1)
        below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
        return below if below == above else below + (above - below) * (place - math.floor(place))

    @property
    def sd(self) -> float:
        """Their sample standard deviation; 0 for a single draw, NaN with draws that are not finite."""
        return spread(self.values).sd or 0.0

    def p_value(self, values: float | Sequence[float], lower_is_better: bool | None = True) -> float:
        """Probability of values at least as bad if the samples came from the exact law.

        Bad is large with `lower_is_better` True and small with False. None is for a metric whose ideal lies in between,
        as 1/2 for accuracy: twice the smaller of the two p-values, at most 1, which tests against the null's own place,
        wherever bias puts it. NaN is as bad as can be, since perfect samples have a value. Several values, one a seed,
        are held against the draws by their ranks: the exact test of Mann and Whitney (On a Test of Whether one of Two
        Random Variables is Stochastically Larger than the Other, 1947), which for one value is the count above. Ties
        are broken in favour of the null. Raises ValueError for no values.
        """
        found = [values] if isinstance(values, int | float) else list(values)
        if not found:
            raise ValueError("no values")
        if lower_is_better is None:
            return min(1.0, 2 * min(self.p_value(found, True), self.p_value(found, False)))

        def badness(value: float) -> tuple[bool, float]:
            return math.isnan(value), 0.0 if math.isnan(value) else value if lower_is_better else -value

        null = [badness(value) for value in self.values]
        if len(found) == 1:
            return (1 + sum(draw >= badness(found[0]) for draw in null)) / (self.draws + 1)
        from scipy.stats import mannwhitneyu

        pooled = sorted([(badness(value), 0) for value in found] + [(draw, 1) for draw in null])
        ranks: tuple[list[int], list[int]] = ([], [])
        for rank, (_, arm) in enumerate(pooled):
            ranks[arm].append(rank)
        return float(mannwhitneyu(*ranks, alternative="greater", method="exact").pvalue)


class Spread(NamedTuple):
    """Mean over seeds and sample standard deviation (n - 1), None where there is one value."""

    mean: float
    sd: float | None


def _mean(values: Sequence[float]) -> float:
    """Added one by one: `sum` compensates floats since Python 3.12, and has other last bits there than before."""
    return reduce(add, values, 0) / len(values)


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation. Raises ValueError for no values.

    With values that are not finite the mean is what arithmetic makes of them (one infinite seed: infinite), the
    standard deviation NaN.
    """
    if not len(values):
        raise ValueError("no values")
    n, mean = len(values), _mean(values)
    if n == 1:
        return Spread(float(mean), None)
    if not all(map(math.isfinite, values)):
        return Spread(float(mean), math.nan)
    return Spread(float(mean), math.hypot(*(value - mean for value in values)) / math.sqrt(n - 1))


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Confidence interval of the mean by Student's t, (low, high), or None for fewer than two values.

    Given the differences of two arms by seed it is the paired t interval, which excludes 0 exactly when the paired
    t-test rejects at 1 - level. It assumes differences that are about normal; for skewed positive values give the
    differences of logarithms. With values that are not finite there is no such interval: the answer is the whole line,
    (-inf, inf), which excludes nothing. Raises ValueError for a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, given {level}")
    if len(values) < 2:
        return None
    mean, sd = spread(values)
    if sd is None or not math.isfinite(sd):
        return -math.inf, math.inf
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, (1 + level) / 2)) * sd / math.sqrt(len(values))
    return mean - half, mean + half


def share_interval(count: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a probability of which `count` of `n` independent trials came out true.

    It has a width where none or all did. Wilson, Probable inference, the law of succession, and statistical inference,
    1927. The whole line for a count that is NaN. Raises ValueError for a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, given {level}")
    if math.isnan(count):
        return -math.inf, math.inf
    from scipy.special import ndtri

    z2, share = float(ndtri((1 + level) / 2)) ** 2, count / n
    middle, half = share + z2 / (2 * n), math.sqrt(z2 * (share * (1 - share) + z2 / (4 * n)) / n)
    return max(0.0, (middle - half) / (1 + z2 / n)), min(1.0, (middle + half) / (1 + z2 / n))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, so that all those below a may be rejected with P(any falsely) <= a.

    Holm, A simple sequentially rejective multiple test procedure, 1979: the smallest of m is multiplied by m, the next
    by m - 1, and so on, and none falls below one before it. It holds under any dependence. NaN counts as 1.
    """
    p = [1.0 if math.isnan(value) else value for value in p_values]
    out, worst = [1.0] * len(p), 0.0
    for rank, k in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        worst = max(worst, min(1.0, (len(p) - rank) * p[k]))
        out[k] = worst
    return out


# Two arms, paired by seed


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of the paired t-test that differences (n,) by seed have mean 0.

    1 for fewer than two and with values that are not finite; where all are equal, 1 if they are 0 and else the sign
    test's 2/2^n, since a t would be infinite.
    """
    if len(differences) < 2 or not all(map(math.isfinite, differences)):
        return 1.0
    n, (mean, sd) = len(differences), spread(differences)
    if not sd:
        return 2.0 ** (1 - n) if mean else 1.0
    from scipy.special import stdtr

    return float(2 * stdtr(n - 1, -abs(mean) / sd * math.sqrt(n)))


def equivalence_p(differences: Sequence[float], margin: float) -> float:
    """p-value of the hypothesis that the mean of differences (n,) is at least `margin` standard deviations from 0.

    P(|T| <= |t|) for a non-central T with the parameter margin sqrt(n) (Wellek 2010). 0 where all differences are 0; 1
    for fewer than two, for equal ones other than 0, and with values that are not finite.
    """
    if len(differences) < 2 or not all(map(math.isfinite, differences)):
        return 1.0
    n, (mean, sd) = len(differences), spread(differences)
    if not sd:
        return 1.0 if mean else 0.0
    from scipy.stats import nct

    t, shift = abs(mean) / sd * math.sqrt(n), margin * math.sqrt(n)
    return max(0.0, float(nct.cdf(t, n - 1, shift) - nct.cdf(-t, n - 1, shift)))


def seeds_for_difference(effect: float, level: float = 0.05, power: float = 0.8) -> float:
    """Paired seeds with which a two-sided t-test at `level` sees a difference of `effect` standard deviations.

    Infinite above 1,000.
    """
    from scipy.stats import nct, t

    if math.isnan(effect) or not effect:
        return math.inf
    effect = min(abs(effect), 100.0)
    return _fewest(lambda n: nct.sf(t.isf(level / 2, n - 1), n - 1, effect * math.sqrt(n)) >= power)


def seeds_for_equivalence(effect: float, margin: float, level: float = 0.05, power: float = 0.8) -> float:
    """Paired seeds with which `equivalence_p` falls below `level` if the true difference is `effect`, in sd.

    Infinite above 1,000, and for an effect of the margin or more.
    """
    from scipy.stats import nct

    if not abs(effect) < margin:
        return math.inf

    def enough(n: int) -> bool:
        limit, shift = nct.ppf(level, n - 1, margin * math.sqrt(n)), abs(effect) * math.sqrt(n)
        return bool(limit > 0 and nct.cdf(limit, n - 1, shift) - nct.cdf(-limit, n - 1, shift) >= power)

    return _fewest(enough)


def _fewest(enough: Callable[[int], bool]) -> float:
    """The least n from 2 to 1,000 for which a condition that stays true holds."""
    if not enough(1000):
        return math.inf
    low, high = 1, 1000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return float(high)
