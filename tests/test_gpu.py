"""On a GPU: the same commands, and results that agree with the CPU's. Skipped where there is none."""

from __future__ import annotations

import warnings

import pytest
import torch
from small import METRICS, tiny

from moonbed.experiments import Store, run
from moonbed.experiments.device import choose_device
from moonbed.experiments.optimizers import Muon
from moonbed.experiments.together import advance
from moonbed.experiments.train import State, train
from moonbed.networks.residual import Residual

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

TRAININGS = {
    "mlp": tiny("ema", training__steps=200).training,
    "residual": tiny("residual", training__steps=200, training__network=Residual(width=32, blocks=2)).training,
    "muon": tiny("ema", training__steps=200, training__optimizer=Muon(lr=0.01)).training,
}


def trained(training, device):
    state = State(training, device)
    for _ in train(training, state):
        pass
    return state


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_is_that_of_the_cpu(name):
    """The same random numbers on both; rounding differs, and 200 steps carry it to 1e-3 of a weight."""
    here, there = (trained(TRAININGS[name], device) for device in ("cpu", "cuda"))
    assert there.log[-1]["loss"] == pytest.approx(here.log[-1]["loss"], rel=1e-3)
    torch.testing.assert_close(there.vector.detach().cpu(), here.vector.detach(), rtol=0, atol=5e-3)


def test_seeds_together_are_those_alone():
    trainings = [TRAININGS["mlp"].replace(seed=s) for s in range(4)]
    states = [State(t, "cuda") for t in trainings]
    assert all(error is None for _, error in advance(trainings, states))
    for training, state in zip(trainings, states, strict=True):
        torch.testing.assert_close(state.vector, trained(training, "cuda").vector, rtol=0, atol=5e-3)


def test_a_step_does_not_wait_for_the_device():
    """It waits at the ends of blocks, where states are copied, and nowhere else."""
    training = TRAININGS["mlp"]
    state = State(training, "cuda")
    walk = train(training, state)
    next(walk)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            next(walk)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(seen) < 60  # some a block, none a step


def test_a_run_is_that_of_the_cpu(tmp_path):
    experiments = [tiny("ema", training__steps=200, training__seed=s) for s in range(2)]
    assert choose_device("auto") == "cuda"
    here, there = (run(experiments, metrics=METRICS, store=Store(tmp_path / d), device=d) for d in ("cpu", "cuda"))
    for a, b in zip(here, there, strict=True):
        assert b.status == a.status == "done"
        for key, value in a.values.items():
            assert b.values[key] == pytest.approx(value, rel=0.05)
