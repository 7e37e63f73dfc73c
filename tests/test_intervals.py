"""Intervals of single runs: of means, of shares, and by random halves."""

import math

import numpy as np
import pytest
from defects import LAW, defective
from scipy.stats import binomtest
from scipy.stats import t as student

from moonbed.metrics import Evaluation
from moonbed.metrics.base import HALVES, Metric
from moonbed.metrics.density import NLL, Exploded, LogDensityKS, ModeWeights, OffSupport
from moonbed.metrics.kernels import MMDAggregated
from moonbed.metrics.panel import Panel
from moonbed.metrics.significance import share_interval
from moonbed.metrics.two_sample import SlicedW1
from moonbed.rng import Rng


def evaluation(x, seed=0):
    return Evaluation(x, None, Rng(seed), law=LAW)


@pytest.mark.parametrize("count", [0, 1, 7, 50, 99, 100])
def test_shares_are_wilsons(count):
    wanted = binomtest(count, 100).proportion_ci(0.95, method="wilson")
    assert share_interval(count, 100) == pytest.approx((wanted.low, wanted.high))


def test_shares_of_nothing_measured_and_of_bad_levels():
    assert share_interval(math.nan, 10) == (-math.inf, math.inf)
    with pytest.raises(ValueError, match="level"):
        share_interval(1, 10, 1.0)


def test_a_mean_has_students_interval():
    e = evaluation(defective("none", 400, 1))
    value = NLL()(e)
    low, high = NLL().interval(e, value)
    terms = e.log_density()
    half = student.ppf(0.975, 399) * terms.std(ddof=1) / 20
    assert (low, high) == pytest.approx((value - half, value + half))


def test_none_exploded_is_not_known_to_be_none():
    e = evaluation(defective("none", 400, 1))
    low, high = Exploded().interval(e, Exploded()(e))
    assert low == 0
    assert 0.005 < high < 0.02


def test_halves_are_halves_and_the_same_for_all():
    e = evaluation(defective("none", 401, 1))
    half = e.half(3)
    assert half is e.half(3)
    assert half.samples.shape == (200, 2)
    assert half.reference.shape == (200, 2)
    rows = {tuple(row) for row in e.samples}
    assert all(tuple(row) in rows for row in half.samples)
    assert len({tuple(row) for row in half.samples}) == 200
    assert not np.array_equal(half.samples, e.half(4).samples)


COVERED = [SlicedW1(directions=16), LogDensityKS(), OffSupport(), ModeWeights(), Panel(), MMDAggregated()]


@pytest.mark.slow
@pytest.mark.parametrize("metric", COVERED, ids=lambda m: type(m).__name__)
def test_intervals_cover_the_mean_over_evaluation_draws(metric):
    """The mean of the statistic at this n lies in at least 85 % of the 95 % intervals (40 draws: 3 sd below 95 %)."""
    n, trials = 300, 40
    draws = [evaluation(defective("noise .06", n, seed), seed) for seed in range(trials)]
    values = [metric(e) for e in draws]
    mean = np.mean(values)
    inside = 0
    for e, value in zip(draws, values, strict=True):
        low, high = metric.interval(e, value)
        inside += low <= mean <= high
    assert inside >= 0.85 * trials


@pytest.mark.slow
@pytest.mark.parametrize("metric", [LogDensityKS(), Panel()], ids=lambda m: type(m).__name__)
def test_halves_are_neither_too_wide(metric):
    """For statistics that are linear to first order the spread of halves is that of the statistic itself."""
    draws = [evaluation(defective("noise .06", 400, seed), seed) for seed in range(40)]
    true = np.std([metric(e) for e in draws], ddof=1)
    halves = [2**metric.growth * np.array([metric(e.half(k)) for k in range(HALVES)]) for e in draws[:20]]
    estimated = math.sqrt(np.mean([h.var(ddof=1) for h in halves]))
    assert 0.7 < estimated / true < 1.4


def test_what_is_not_finite_excludes_nothing():
    x = defective("none", 100, 1)
    x[0] = np.inf
    e = evaluation(x)
    for metric in (SlicedW1(directions=4), NLL()):
        assert metric.interval(e, metric(e)) == (-math.inf, math.inf)


class Unchanging(Metric):
    """Five, whatever the samples."""

    def __call__(self, evaluation):
        return 5.0


def test_a_new_metric_inherits_its_interval():
    e = evaluation(defective("none", 100, 1))
    assert Unchanging().interval(e, 5.0) == (5.0, 5.0)
