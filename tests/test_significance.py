"""Floors, p-values, spreads and intervals."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from moonbed.metrics.significance import Floor, holm, interval, spread

INF, NAN = math.inf, math.nan
numbers = st.floats(-1e6, 1e6)


@given(st.lists(numbers, min_size=1, max_size=60), st.floats(0, 1))
def test_mean_and_quantiles_are_numpys(values, q):
    floor = Floor(values)
    assert floor.draws == len(values)
    assert floor.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)
    assert (floor.lo, floor.hi) == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])), rel=1e-9, abs=1e-6)
    assert floor.quantile(q) == pytest.approx(np.quantile(values, q), rel=1e-9, abs=1e-6)


@given(st.lists(numbers, min_size=2, max_size=40, unique=True))
def test_p_values_are_uniform_under_the_null(values):
    """Any of B + 1 exchangeable values may be the observed one: their p-values are 1/(B+1), ..., 1, once each."""
    n = len(values)
    rank = [round(n * Floor(values[:i] + values[i + 1 :]).p_value(values[i])) for i in range(n)]
    assert sorted(rank) == list(range(1, n + 1))
    for level in (0.05, 0.1, 0.5):
        two = [Floor(values[:i] + values[i + 1 :]).p_value(values[i], None) for i in range(n)]
        assert np.mean(np.array(two) <= level) <= level


def test_p_values_by_hand():
    floor = Floor([0.1, 0.2, 0.2, 0.4])
    assert floor.p_value(0.5) == 1 / 5
    assert floor.p_value(0.2) == 4 / 5
    assert floor.p_value(0.0) == 1
    assert floor.p_value(0.0, lower_is_better=False) == 1 / 5
    assert floor.p_value(0.2, lower_is_better=False) == 4 / 5
    assert floor.p_value(0.5, lower_is_better=None) == floor.p_value(0.0, lower_is_better=None) == 2 / 5
    assert floor.p_value(0.2, lower_is_better=None) == 1


def test_two_sided_is_around_the_floor_and_not_around_a_half():
    accuracy = Floor(np.linspace(0.33, 0.37, 99))
    assert accuracy.p_value(0.35, None) > 0.9
    assert accuracy.p_value(0.5, None) == accuracy.p_value(0.1, None) == 0.02


def test_p_values_of_what_is_not_finite():
    floor = Floor([0.1, 0.2, 0.3])
    assert floor.p_value(INF) == floor.p_value(NAN) == floor.p_value(-INF, False) == floor.p_value(NAN, False) == 1 / 4
    assert floor.p_value(-INF) == 1
    assert floor.p_value(NAN, None) == 2 / 4
    assert Floor([0.1, INF]).p_value(INF) == 2 / 3
    assert Floor([0.1, NAN]).p_value(0.5) == Floor([0.1, NAN]).p_value(0.0, False) == 2 / 3
    assert Floor([NAN, NAN]).p_value(NAN) == 1


def test_floors_of_what_is_not_finite():
    floor = Floor([0.0, 1.0, INF])
    assert (floor.mean, floor.hi) == (INF, INF)
    assert floor.lo == pytest.approx(0.1)
    assert floor.quantile(0.5) == 1
    assert floor.quantile(1) == INF
    broken = Floor([0.0, NAN])
    assert all(map(math.isnan, (broken.mean, broken.lo, broken.hi)))


def test_a_floor_is_a_value():
    floor = Floor(np.array([1.0, 2.0]))
    assert floor == Floor([1, 2])
    assert hash(floor) == hash(Floor((1.0, 2.0)))
    assert floor.values == (1.0, 2.0)
    assert type(floor.values[0]) is float
    with pytest.raises(dataclasses.FrozenInstanceError):
        floor.values = ()
    with pytest.raises(ValueError, match="at least one"):
        Floor([])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        floor.quantile(1.1)


@given(st.lists(numbers, min_size=2, max_size=30))
def test_spread_is_the_sample_standard_deviation(values):
    mean, sd = spread(values)
    assert mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)
    assert sd == pytest.approx(np.std(values, ddof=1), rel=1e-9, abs=1e-6)


def test_means_have_the_same_bits_on_every_release_of_python():
    """Of ten times 0.1 `sum` makes 1.0 since Python 3.12 and the number below before."""
    assert spread([0.1] * 10).mean == Floor([0.1] * 10).mean == 0.9999999999999999 / 10


def test_spread_of_one_none_and_what_is_not_finite():
    assert spread([3]) == (3.0, None)
    assert spread(np.array([1.0, 3.0])) == (2.0, math.sqrt(2))
    mean, sd = spread([1.0, INF])
    assert mean == INF
    assert math.isnan(sd)
    assert all(map(math.isnan, spread([1.0, NAN])))
    with pytest.raises(ValueError, match="no values"):
        spread([])


@pytest.mark.parametrize("n", [2, 3, 5, 30])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_interval_is_scipys_paired_t(n, level):
    a, b = np.random.default_rng(n).normal(size=(2, n))
    a += 0.7
    test = scipy.stats.ttest_rel(a, b)
    low, high = interval(a - b, level)
    assert (low, high) == pytest.approx(tuple(test.confidence_interval(level)), rel=1e-9)
    assert (low > 0 or high < 0) == (test.pvalue < 1 - level)


def test_interval_covers_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(size=(2000, 4))
    covered = np.mean([low <= 0 <= high for low, high in map(interval, draws)])
    assert covered == pytest.approx(0.95, abs=0.02)


def test_interval_of_too_little_and_of_what_is_not_finite():
    assert interval([]) is None
    assert interval([1.0]) is None
    assert interval([1.0, 1.0]) == (1.0, 1.0)
    assert interval([1.0, 2.0, INF]) == interval([1.0, NAN]) == (-INF, INF)
    for level in (0, 1, 95):
        with pytest.raises(ValueError, match="between 0 and 1"):
            interval([1.0, 2.0], level)


def test_holm():
    """The example of R's documentation of p.adjust, and the definition by closed testing on three."""
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.04, 0.001, 0.03]) == pytest.approx([0.06, 0.003, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([math.nan, 0.01]) == pytest.approx([1.0, 0.02])
    assert holm([]) == []


def test_holm_holds_the_family_wise_level():
    rng = np.random.default_rng(0)
    falsely = np.mean([min(holm(rng.random(10))) < 0.1 for _ in range(2000)])
    assert 0.07 < falsely < 0.12
