"""Muon against the singular value decomposition, and learning rates over a training."""

from __future__ import annotations

import math

import pytest
import torch
from small import tiny

from moonbed.component import members
from moonbed.experiments._muon import orthogonal
from moonbed.experiments.optimizers import Constant, LearningRate, Muon, Optimizer, WarmupCosine
from moonbed.experiments.train import State, train


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 20), (2, 20, 8), (4, 1, 5)])
def test_the_update_of_muon_has_the_directions_of_the_gradient_and_equal_lengths(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    found = orthogonal(x, 5)
    lengths = torch.linalg.svdvals(found)
    assert float(lengths.min()) > 0.3  # of the quintic iteration, which trades exactness for speed
    assert float(lengths.max()) < 1.4
    inner = u.mT @ found @ v.mT  # diagonal: the singular vectors are kept
    torch.testing.assert_close(inner, torch.diag_embed(inner.diagonal(dim1=1, dim2=2)), rtol=0, atol=1e-4)
    torch.testing.assert_close(orthogonal(1e6 * x, 5), found, rtol=0, atol=1e-3)


def test_muon_moves_hidden_matrices_by_its_rate_and_the_rest_by_adam():
    training = tiny(training__optimizer=Muon(lr=0.1, adam_lr=1e-2), training__steps=1).training
    before, state = State(training), State(training)
    next(train(training, state))
    moved = {
        name: w.detach() - b.detach()
        for (name, w), b in zip(state.network.named_parameters(), before.weights, strict=True)
    }
    last = [name for name, w in moved.items() if w.ndim == 2][-1]
    for name, step in moved.items():
        if step.ndim == 2 and name != last and step.abs().max() > 0:
            rows, columns = step.shape
            assert float(torch.linalg.svdvals(step)[0]) < 1.4 * 0.1 * max(1, rows / columns) ** 0.5
        else:
            assert float(step.abs().max()) < 1.01e-2
    assert float(moved[last].abs().max()) > 0.9e-2


def test_muon_learns():
    training = tiny(training__optimizer=Muon(lr=0.02), training__steps=300).training
    state = State(training)
    for _ in train(training, state):
        pass
    assert state.log[-1]["loss"] < 0.7 * state.log[0]["loss"]


def test_one_vector_is_as_good_as_its_parts_for_an_elementwise_optimizer():
    g = torch.Generator().manual_seed(0)
    for cls in members(Optimizer).values():
        if not cls.elementwise:
            continue
        whole = torch.nn.Parameter(torch.randn(40, generator=g))
        parts = [torch.nn.Parameter(p.detach().clone()) for p in (whole[:33], whole[33:])]
        one, many = cls().build([whole]), cls().build(parts)
        for _ in range(5):
            whole.grad = torch.randn(40, generator=g)
            parts[0].grad, parts[1].grad = whole.grad[:33].clone(), whole.grad[33:].clone()
            one.step()
            many.step()
        torch.testing.assert_close(torch.cat([p.detach() for p in parts]), whole.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rate", [cls() for cls in members(LearningRate).values()], ids=str)
def test_rates_lie_between_nothing_and_the_peak(rate):
    for steps in (1, 10, 1000):
        factors = [rate(step, steps) for step in range(steps)]
        assert all(0 < f <= 1 for f in factors)


def test_the_cosine_starts_low_peaks_after_warm_up_and_ends_near_nothing():
    rate = WarmupCosine(warmup=50)
    factors = [rate(step, 1000) for step in range(1000)]
    assert factors[0] == pytest.approx(1 / 50)
    assert 45 <= factors.index(max(factors)) <= 52
    assert factors[500] == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert factors[-1] < 1e-5
    assert [Constant()(k, 3) for k in range(3)] == [1, 1, 1]


def test_the_rate_reaches_the_optimizer():
    """Half of the rate is half of the first step of Adam, whose length is the rate."""
    lengths = []
    for warmup in (1, 2):
        training = tiny(training__steps=1, training__learning_rate=WarmupCosine(warmup=warmup)).training
        before, state = State(training), State(training)
        next(train(training, state))
        lengths.append(float((state.vector - before.vector).detach().abs().max()))
    assert lengths[1] == pytest.approx(lengths[0] / 2, rel=0.02)
