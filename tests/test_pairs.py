"""What is computed fast against its plain definition: pairs in tiles and single precision, halves, posterior means."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from defects import LAW, defective
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from moonbed.metrics import Evaluation, kernels
from moonbed.metrics import law as law_module
from moonbed.metrics.base import HALVES
from moonbed.metrics.kernels import KSD, MMDAggregated
from moonbed.metrics.law import known
from moonbed.metrics.suites import SUITES
from moonbed.rng import Rng
from moonbed.targets.boxes import Checkerboard
from moonbed.targets.mixtures import EightGaussians, FractalTree


@st.composite
def clouds(draw):
    """Points (n, dim) of any scale, with ties and perhaps one far away, scores for them, and subsets (n, 3)."""
    n, dim = draw(st.integers(2, 30)), draw(st.integers(1, 3))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = 10.0 ** draw(st.integers(-2, 2)) * generator.normal(size=(n, dim))
    score = 10.0 ** draw(st.integers(-1, 3)) * generator.normal(size=(n, dim))
    if draw(st.booleans()):
        x[n // 2 :] = x[: n - n // 2]
    far = draw(st.sampled_from([0.0, 1e3, 1e8, 1e15, 1e25, 1e60]))
    if far:
        x[0], score[0] = far, -400 * far
    return x, score, generator.random((n, 3)) < 0.5


def stein(x, s, h2, gaussian):
    """(n, n) u of all pairs, written as the definition has it, and the size of the terms that it is a sum of.

    A kernel below 1e-30 counts as that: exponents have a floor.
    """
    difference = x[:, None] - x
    r2, inner = (difference**2).sum(2), s @ s.T
    cross = ((s[:, None] - s) * difference).sum(2)
    k = np.exp(-r2 / (2 * h2)) if gaussian else (1 + r2 / h2) ** -0.5
    first = k / h2 if gaussian else k**3 / h2  # -2 dk/d(r²)
    second = k / h2**2 if gaussian else 3 * k**5 / h2**2  # 4 d²k/d(r²)²
    terms = [k * inner, first * cross, first * x.shape[1], -second * r2]
    norm = np.sqrt((x**2).sum(1)) + np.sqrt((s**2).sum(1))
    product = (norm[:, None] + norm) ** 2 + x.shape[1]
    return sum(terms), (k + first + abs(second)) * product + 1e-6 * gaussian * (1 + 1 / h2) ** 2 * product


@given(clouds(), st.sampled_from([(1.0,), (10.0, 0.1), (1e-3,)]), st.sampled_from([4, 256]))
@settings(max_examples=150, deadline=None)
def test_stein_sums_are_the_double_sum(cloud, bandwidths, side):
    x, score, subsets = cloud
    before, kernels._TILE = kernels._TILE, side
    try:
        sums, _ = kernels._stein_sums(x, score, bandwidths, subsets)
        whole, squares = kernels._stein_sums(x, score, bandwidths, squares=True)
    finally:
        kernels._TILE = before
    upper = np.triu(np.ones((len(x), len(x))), 1)
    for i, h2 in enumerate(bandwidths):
        for column, gaussian in ((i, False), (len(bandwidths) + i, True)):
            u, size = stein(x, score, h2, gaussian)
            error = 3e-6 * (upper * size).sum()
            for j, member in enumerate(subsets.T):
                mine = upper * np.outer(member, member)
                assert abs(sums[column, j] - (mine * u).sum()) <= error
            assert abs(whole[column, 0] - (upper * u).sum()) <= error
            assert abs(squares[column] - (upper * u**2).sum()) <= 1e-5 * (upper * size**2).sum()


@given(clouds(), st.integers(1, 8), st.sampled_from([4, 256]))
@settings(max_examples=100, deadline=None)
def test_kernel_sums_are_the_double_sum(cloud, widths, side):
    x, y, subsets = cloud
    h = np.sqrt(np.median(x**2)) / 2.0 ** np.arange(widths)
    before, kernels._TILE = kernels._TILE, side
    try:
        sums, cross = kernels._kernel_sums(x, h, subsets), kernels._cross_sums(x, y, h)
    finally:
        kernels._TILE = before
    r2, upper = cdist(x, x, "sqeuclidean"), np.triu(np.ones((len(x), len(x))), 1)
    for i, width in enumerate(h):
        k = np.exp(-r2 / (2 * width**2))
        wanted = [(upper * np.outer(member, member) * k).sum() for member in subsets.T]
        np.testing.assert_allclose(sums[i], wanted, rtol=1e-3, atol=1e-6)
        wanted = np.exp(-cdist(x, y, "sqeuclidean") / (2 * width**2)).sum()
        np.testing.assert_allclose(cross[i], wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("far", [None, 1e5, 1e20, 1e80, math.inf, math.nan])
@pytest.mark.parametrize("metric", [KSD(), KSD(bandwidths=(0.3,)), MMDAggregated()], ids=lambda m: m.id)
def test_all_halves_at_once_are_the_halves_one_by_one(metric, far):
    x = defective("noise .06", 301, 2)
    if far is not None:
        x[7] = far
    evaluation = Evaluation(x, None, Rng(3), law=LAW)
    one_by_one = [metric(Evaluation(evaluation.half(k).samples, None, Rng(0), law=LAW)) for k in range(HALVES)]
    np.testing.assert_allclose(metric.halves(evaluation), one_by_one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("law", [LAW, EightGaussians(), Checkerboard()], ids=lambda law: type(law).__name__)
def test_single_precision_is_far_below_the_spread_under_the_law(law, monkeypatch):
    """Against the same in double precision, in standard deviations under the law."""
    x = law.sample(1500, Rng(1).stream("x")).numpy()
    metrics = [m for m in (KSD(), MMDAggregated()) if not m.missing(Evaluation(x, None, Rng(0), law=law))]
    values = [m(Evaluation(x, None, Rng(0), law=law)) for m in metrics]
    tiles = kernels._tiles
    monkeypatch.setattr(kernels, "_tiles", lambda x, y, near, forms, spare: tiles(x, y, 0, forms, spare))
    exact = [m(Evaluation(x, None, Rng(0), law=law)) for m in metrics]
    np.testing.assert_allclose(values, exact, atol=2e-4)
    assert values != exact


def test_halves_take_what_is_known_of_each_sample_from_the_whole():
    x, calls = defective("none", 101, 1), []

    def squares(points):
        calls.append(len(points))
        return points**2

    evaluation = Evaluation(x, None, Rng(0), law=LAW)
    quarter = evaluation.half(2).half(1)
    assert np.array_equal(quarter.each("squares", squares), quarter.samples**2)
    assert np.array_equal(evaluation.half(2).each("squares", squares), evaluation.half(2).samples ** 2)
    assert calls == [101]
    assert quarter.whole is evaluation.half(2).whole is evaluation.whole is evaluation
    assert np.array_equal(evaluation.samples[evaluation.members()[:, 2]], evaluation.half(2).samples)
    assert np.allclose(quarter.log_density(), Evaluation(quarter.samples, None, Rng(0), law=LAW).log_density())


@pytest.mark.parametrize("far", [None, 1e5, math.inf])
@pytest.mark.parametrize("metric", SUITES["default"], ids=lambda m: m.label)
def test_what_halves_share_with_the_whole_changes_no_value(metric, far):
    x, train = defective("bridge", 301, 2), defective("none", 90, 3)
    if far:
        x[7] = far
    evaluation = Evaluation(x, None, Rng(3), law=LAW, train=train)
    metric(evaluation)
    for k in range(3):
        half, rng = evaluation.half(k), Rng(3).child("half", k)
        alone = Evaluation(half.samples, half.reference, rng, law=LAW, train=train)
        np.testing.assert_allclose(metric(half), metric(alone), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("side", [None, 700])
@pytest.mark.parametrize("law", [LAW, EightGaussians(), FractalTree(depth=2)], ids=lambda law: type(law).__name__)
def test_posterior_and_kernel_means_are_sums_over_gaussians(law, side, monkeypatch):
    if side:
        monkeypatch.setattr(law_module, "_BLOCK", side)
    ours = known(law)
    x = np.vstack([law.sample(40, Rng(1).stream("x")).numpy(), [[5.0, -4.0], [300.0, 2.0], [1e9, 1e9]]])
    difference = (x[:, None] - ours.centres.numpy()) ** 2
    for h in (0.0, 0.02, 1.0):
        v = ours.std.numpy() ** 2 + h**2
        log_joint = np.log(ours.weights.numpy()) - 0.5 * (difference / v + np.log(2 * np.pi * v)).sum(2)
        log_p = logsumexp(log_joint, axis=1)
        means = np.exp(log_joint - log_p[:, None]) @ ours.centres.numpy()
        found = ours.posterior(torch.from_numpy(x), ours.centres, blur=h)
        np.testing.assert_allclose(found[0], log_p, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found[1][:-1], means[:-1], rtol=1e-7, atol=1e-7)
        if h:
            wanted = np.exp(log_p) * 2 * np.pi * h**2
            np.testing.assert_allclose(ours.kernel_mean(x, h), wanted, rtol=1e-5, atol=1e-20)


@pytest.mark.slow
@pytest.mark.parametrize("metric", [KSD(), MMDAggregated()], ids=lambda m: m.id)
def test_memory_is_linear(metric):
    """8,000 points have 32 million pairs, 256 MB."""
    evaluation = Evaluation(defective("none", 8000, 1), None, Rng(0), law=LAW)
    metric(Evaluation(defective("none", 50, 1), None, Rng(0), law=LAW))
    tracemalloc.start()
    metric.halves(evaluation)
    assert tracemalloc.get_traced_memory()[1] < 40 << 20
    tracemalloc.stop()
