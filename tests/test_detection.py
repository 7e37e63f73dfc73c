"""N50: how many samples tell a model from the truth."""

import math

import numpy as np
import pytest
import torch
from defects import LAW, defective
from scipy.stats import norm

from moonbed.metrics import Evaluation
from moonbed.metrics.detection import N50, _measured
from moonbed.metrics.panel import Evidence
from moonbed.rng import Rng


def n50(x, metric=None, **given):
    evaluation = Evaluation(x, None, Rng(0), law=LAW, **given)
    metric = metric or N50()
    value = metric(evaluation)
    return value, metric.interval(evaluation, value), metric.details(evaluation)


class Source:
    """A model that only samples."""

    sigma_min, sigma_max = 0.01, 100.0

    def __init__(self, name):
        self.name, self.asked = name, []

    def sample(self, n, number):
        self.asked.append(n)
        return torch.from_numpy(defective(self.name, n, 1000 + number))


def test_a_shift_of_one_score_is_found_where_theory_says():
    """With one question of effect theta, half power is at the m where theta sqrt(m) is the critical value."""
    generator, theta, n = np.random.default_rng(0), 0.1, 20_000
    seen = Evidence(generator.normal(size=(n, 1)) + theta, np.ones(n, dtype=bool), 5e-4)
    found = _measured(seen, 0.05, generator)
    assert found.critical == pytest.approx(norm.isf(0.05 / 4))  # two questions, the tail is the other
    wanted = (found.critical / theta) ** 2
    assert found.n50 == pytest.approx(wanted, rel=0.25)


@pytest.mark.parametrize("name", ["noise .06", "shift .02", "bridge", "missing end"])
def test_it_does_not_depend_on_how_many_samples_there_are(name):
    """The same model reads the same at n = 2,000 and at 16,000, within its interval."""
    small, (low, high), _ = n50(defective(name, 2_000, 1))
    large = n50(defective(name, 16_000, 2))[0]
    assert low < large < high
    assert 20 < small < 2_000
    assert 20 < large < 4_000


def test_it_orders_models_by_their_defect():
    values = [n50(defective(name, 5_000, 3))[0] for name in ("noise .06", "noise .045", "missing end", "none")]
    assert values == sorted(values)
    assert math.isinf(values[-1])


def test_an_exact_sampler_is_beyond_n_max_but_for_the_level():
    found = [n50(defective("none", 1_000, seed))[0] for seed in range(100)]
    assert sum(map(math.isfinite, found)) <= 11  # P(more of 100 at 5 %) = 0.004


def test_words_and_interval_of_what_was_not_found():
    value, (low, high), details = n50(defective("none", 5_000, 3))
    assert math.isinf(value)
    assert details == {"n_max": 5_000, "text": "> 5,000"}
    assert 500 < low < 5_000
    assert math.isinf(high)


def test_the_model_is_asked_for_more_only_where_it_is_needed():
    clear, subtle = Source("noise .06"), Source("52/48")
    value, _, _ = n50(defective("noise .06", 5_000, 1), model=clear)
    assert clear.asked == []
    assert value < 500
    value, _, details = n50(defective("52/48", 3_000, 1), model=subtle)
    assert subtle.asked == [3_000] * 5 + [2_000]
    assert details["n_max"] == 20_000
    assert 1_500 < value < 20_000


def test_exploded_samples_are_found():
    x = defective("none", 2_000, 5)
    x[:100] = np.nan
    x[100:200] = np.inf
    assert n50(x)[0] < 100
    value, _, details = n50(np.full((50, 2), np.inf))
    assert (value, details["text"]) == (4, "≤ 4")


def test_more_is_better_and_ratios_count():
    metric = N50()
    assert metric.lower_is_better is False
    assert metric.badness(100, 0) - metric.badness(200, 0) == pytest.approx(math.log(2))
    assert metric.badness(math.inf, 0) == metric.badness(metric.n_max, 0)
