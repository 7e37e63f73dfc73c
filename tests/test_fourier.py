"""Sums of a Gaussian kernel by plane waves against sums over pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import rbf_kernel

from moonbed.metrics import fourier
from moonbed.metrics.fourier import Waves


@given(
    st.integers(1, 2),
    st.integers(1, 60),
    st.integers(1, 60),
    st.floats(-3, 3),
    st.floats(-1, 3),
    st.floats(-1, 1),
    st.integers(0, 2**31),
)
@settings(max_examples=100, deadline=None)
def test_totals_are_the_double_sums(dim, n, m, shift, log_gamma, log_scale, seed):
    rng = np.random.default_rng(seed)
    scale, gamma = 10**log_scale, 10 ** (log_gamma - 2 * log_scale)
    x, y = scale * rng.uniform(-1, 1, (n, dim)), scale * (rng.uniform(-1, 1, (m, dim)) + shift)
    v, w = rng.normal(size=n), rng.normal(size=m)
    waves = Waves(tuple(np.ptp(np.vstack([x, y]), axis=0)), gamma)
    kernel = rbf_kernel(x, y, gamma=gamma)
    assert waves.total(waves.transform(x), waves.transform(y)) == pytest.approx(
        kernel.sum(), rel=1e-12, abs=1e-13 * n * m
    )
    weighted = waves.total(waves.transform(x, v), waves.transform(y, w))
    assert weighted == pytest.approx(v @ kernel @ w, abs=1e-13 * np.abs(v).sum() * np.abs(w).sum())


def test_frequencies_are_few_for_a_kernel_as_wide_as_the_points():
    assert max(Waves((1.0, 1.0), 1.0).counts) < 20
    assert max(Waves((10.0, 0.0), 1.0).counts) < 40


@pytest.mark.parametrize("dim", [1, 2])
def test_blocks_of_points_and_no_points(dim, monkeypatch):
    x = np.random.default_rng(0).normal(size=(50, dim))
    waves = Waves((6.0,) * dim, 2.0)
    whole = waves.transform(x, np.arange(50.0))
    monkeypatch.setattr(fourier, "_BLOCK", 7)
    assert waves.transform(x, np.arange(50.0)) == pytest.approx(whole, abs=1e-10)
    assert waves.total(waves.transform(x[:0]), whole) == 0
