"""The gradient of a step: compiled or not it is the same, and without a compiler it is still there."""

from __future__ import annotations

import pytest
import torch
from small import finished, tiny

from moonbed.experiments import gradients
from moonbed.experiments.train import State, train
from moonbed.networks.residual import Residual

SMALL = tiny("ema", training__steps=20).training
BLOCK = "moonbed.experiments.train.BLOCK"


def equal(a: State, b: State) -> bool:
    x, y = a.tensors(), b.tensors()
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


@pytest.fixture
def compiling(monkeypatch):
    """Compile whatever the number of steps; how often torch was asked to."""
    asked, real = [], gradients.compiled

    def counted(function, *more):
        asked.append(function)
        return real(function, *more)

    monkeypatch.setattr(gradients, "compiled", counted)
    monkeypatch.setattr(gradients, "PAYS", 1)
    return asked


@pytest.mark.slow
@pytest.mark.parametrize("clip", [1e-3, None])
def test_a_compiled_training_is_the_same_within_rounding(compiling, monkeypatch, clip):
    training = SMALL.replace(clip=clip, network=Residual(width=16, blocks=1))
    fast = finished(training)
    assert len(compiling) == 1
    monkeypatch.setattr(gradients, "PAYS", 1000)
    plain = finished(training)
    assert len(compiling) == 1
    torch.testing.assert_close(fast.vector, plain.vector, rtol=0, atol=1e-5)
    assert float((plain.vector - State(training).vector).detach().abs().max()) > 1e-3


@pytest.mark.slow
def test_compiled_bits_are_the_same_again_and_after_a_stop(compiling, monkeypatch):
    monkeypatch.setattr(BLOCK, 10)
    once, again, kept = finished(SMALL), finished(SMALL), State(SMALL)
    next(train(SMALL, kept))
    resumed = State(SMALL)
    resumed.load(*kept.snapshot())
    assert resumed.step == 10
    assert equal(once, again)
    assert equal(once, finished(SMALL, resumed))
    assert len(compiling) == 4


def test_without_a_compiler_it_goes_on_and_says_so(monkeypatch):
    def broken(function, **options):
        def call(*args):
            raise RuntimeError("no C++ compiler")

        return call

    plain = finished(SMALL)
    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(gradients, "PAYS", 1)
    with pytest.warns(UserWarning, match="not compiled, which only makes it slower: RuntimeError"):
        found = finished(SMALL)
    assert equal(found, plain)


def test_few_steps_are_not_compiled(monkeypatch):
    monkeypatch.setattr(gradients, "compiled", lambda *args: pytest.fail("compiled"))
    finished(SMALL)
    assert SMALL.steps < gradients.PAYS
