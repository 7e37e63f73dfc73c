"""Trainings as one batched computation: what each would be alone."""

from __future__ import annotations

import json

import pytest
import torch
from small import finished, tiny

from moonbed.diffusion.predictions import V
from moonbed.diffusion.schedules import Trigonometric
from moonbed.experiments import Store, planning, process
from moonbed.experiments.engines import Progress
from moonbed.experiments.optimizers import AdamW, Muon, WarmupCosine
from moonbed.experiments.run import execute
from moonbed.experiments.together import advance, pays, shape
from moonbed.experiments.train import State
from moonbed.networks.residual import Residual

BASE = tiny("ema", training__steps=250).training
OTHER = [
    BASE,
    BASE.replace(seed=1),
    BASE.replace(schedule=Trigonometric(), prediction=V(), points=700),
    BASE.replace(**{"objective.weight": "P2", "target.noise": 0.2}),
]


def together(trainings, states=None):
    states = states or [State(t) for t in trainings]
    return states, list(advance(trainings, states))


def close(a: State, b: State) -> None:
    assert a.step == b.step
    x, y = a.tensors(), b.tensors()
    assert x.keys() == y.keys()
    for key in x:
        torch.testing.assert_close(x[key], y[key], rtol=0, atol=2e-5, msg=key)
    for line, other in zip(a.log, b.log, strict=True):
        assert line == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"clip": None},
        {"averaging": None, "learning_rate": WarmupCosine(warmup=9)},
        {"network": Residual(width=16, blocks=2)},
        {"optimizer": AdamW(lr=3e-3, weight_decay=0.2)},
    ],
    ids=str,
)
def test_seeds_and_configurations_are_what_they_are_finished(changes):
    trainings = [t.replace(**changes) for t in OTHER]
    assert len({shape(t) for t in trainings}) == 1
    states, events = together(trainings)
    assert events == [(k, None) for _ in range(3) for k in range(4)]
    for training, state in zip(trainings, states, strict=True):
        close(state, finished(training))


def test_what_differs_in_more_has_another_shape():
    for changes in ({"batch": 32}, {"steps": 20}, {"clip": None}, {"network.hidden": [8]}, {"averaging": None}):
        assert shape(BASE.replace(**changes)) != shape(BASE)


def test_they_go_on_from_where_they_stopped():
    whole, _ = together(OTHER[:2])
    parts = [State(t) for t in OTHER[:2]]
    steps = advance(OTHER[:2], parts)
    next(steps)
    next(steps)
    steps.close()
    resumed = [State(t) for t in OTHER[:2]]
    for state, part in zip(resumed, parts, strict=True):
        assert part.step == 100
        state.load(*part.snapshot())
    together(OTHER[:2], resumed)
    for a, b in zip(whole, resumed, strict=True):
        assert torch.equal(a.vector, b.vector)
        assert torch.equal(a.averages, b.averages)


def test_blocks_prepared_ahead_are_the_same():
    whole, _ = together(OTHER)
    states = [State(t) for t in OTHER]
    events = list(advance(OTHER, states, ahead=True))
    assert events == [(k, None) for _ in range(3) for k in range(4)]
    for a, b in zip(whole, states, strict=True):
        assert torch.equal(a.vector, b.vector)


def test_one_that_diverges_leaves_the_others_finished():
    states = [State(t) for t in OTHER[:3]]
    with torch.no_grad():
        states[1].vector.fill_(1e30)
    start = states[1].vector.detach().clone()
    _, events = together(OTHER[:3], states)
    errors = {k: error for k, error in events if error is not None}
    assert list(errors) == [1]
    assert errors[1].step == 1
    assert torch.equal(states[1].vector, start)
    for k in (0, 2):
        assert states[k].step == 250
        close(states[k], finished(OTHER[k]))


def test_a_network_that_draws_is_trained_finished():
    trainings = [t.replace(network=Residual(width=16, blocks=1, dropout=0.5), steps=30) for t in OTHER[:2]]
    states, events = together(trainings)
    assert events == [(0, None), (1, None)]
    for training, state in zip(trainings, states, strict=True):
        assert torch.equal(state.vector, finished(training).vector)


def test_on_a_cpu_each_is_trained_alone_so_that_bits_do_not_depend_on_company():
    assert not pays(BASE, "cpu")
    assert pays(BASE, "cuda")
    assert not pays(BASE.replace(optimizer=Muon()), "cuda")


def test_a_run_uses_it_where_it_pays(tmp_path, monkeypatch):
    experiments = [tiny("ema", training__steps=120, training__seed=s) for s in range(3)]
    list(execute(experiments, (), Store(tmp_path / "alone"), "cpu"))
    sizes, real = [], advance

    def counted(trainings, states, ahead):
        sizes.append(len(trainings))
        return real(trainings, states, ahead)

    monkeypatch.setattr(process, "advance", counted)
    monkeypatch.setattr(planning, "pays", lambda training, device: True)
    events = list(execute(experiments, (), Store(tmp_path / "together"), "cpu"))
    assert sizes == [3]
    trained = [
        (group[0].training.seed, e.done) for group, e in events if isinstance(e, Progress) and e.stage == "train"
    ]
    assert trained == [(s, done) for done in (100, 120) for s in range(3)]
    for e in experiments:
        a, b = (Store(tmp_path / name).training(e.training) for name in ("alone", "together"))
        assert a.record()["step"] == b.record()["step"] == 120
        logs = [[json.loads(line) for line in f.file("log.jsonl").splitlines()] for f in (a, b)]
        assert [line["loss"] for line in logs[0]] == pytest.approx([line["loss"] for line in logs[1]], rel=1e-5)
    assert list(execute(experiments, (), Store(tmp_path / "together"), "cpu"))
    assert sizes == [3]
