"""Muon against the singular value decomposition, all of torch.optim, and learning rates over a training."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys

import pytest
import torch
from diffusers.optimization import get_scheduler
from safetensors.torch import load, save
from small import finished, tiny
from torch.optim import lr_scheduler

from moonbed.component import SpecError, members
from moonbed.experiments._muon import orthogonal
from moonbed.experiments.optimizers import (
    AdamW,
    Constant,
    InverseSqrt,
    LearningRate,
    Muon,
    Optimizer,
    Step,
    TorchOptimizer,
    WarmupCosine,
    WarmupLinear,
    WarmupStable,
    torch_optimizers,
    torch_options,
)
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


# torch.optim

TORCH = [
    *(TorchOptimizer(name=name, lr=1e-2) for name in sorted(torch_optimizers())),
    TorchOptimizer(name="SGD", lr=1e-2, options={"momentum": 0.9, "nesterov": True}),
    TorchOptimizer(name="SGD", lr=1e-2, options={"momentum": 0.9, "foreach": True}),
    TorchOptimizer(name="Adam", options={"betas": [0.8, 0.9], "amsgrad": True, "fused": True}),
    TorchOptimizer(name="RMSprop", lr=1e-3, options={"momentum": 0.5, "centered": True}),
    TorchOptimizer(name="ASGD", lr=1e-2, options={"t0": 5}),
    TorchOptimizer(name="Adafactor", lr=1e-2, options={"eps": [None, 1e-3]}),
]


def test_the_optimizers_are_those_that_torch_has():
    made = {name for name, value in vars(torch.optim).items() if isinstance(value, type)} - {"Optimizer"}
    assert set(torch_optimizers()) == made - {"LBFGS", "SparseAdam", "Muon"}
    for name in torch_optimizers():
        parameters = inspect.signature(getattr(torch.optim, name)).parameters
        assert torch_options(name) == set(parameters) - {"params", "lr"}


@pytest.mark.parametrize("optimizer", TORCH, ids=lambda o: f"{o.name}{o.options or ''}")
def test_any_optimizer_learns_and_resumes_bit_for_bit(monkeypatch, optimizer):
    monkeypatch.setattr("moonbed.experiments.train.BLOCK", 10)
    rate = WarmupLinear(warmup=5)
    training = tiny("ema", training__steps=30, training__optimizer=optimizer, training__learning_rate=rate).training
    state, kept = State(training), []
    start = state.vector.detach().clone()
    for _ in train(training, state):
        tensors, step, log = state.snapshot()
        kept.append((save(tensors), step, log))
    assert not torch.equal(state.vector, start)
    for data, step, log in kept[:-1]:
        resumed = State(training)
        resumed.load(load(data), step, log)
        finished(training, resumed)
        ours, theirs = resumed.tensors(), state.tensors()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_torch_optimizer_is_the_optimizer_that_it_names():
    options = {"betas": [0.5, 0.9], "weight_decay": 0.3}
    changes = {"training__optimizer": TorchOptimizer(name="AdamW", lr=3e-3, options=options), "training__steps": 20}
    got = finished(tiny(**changes).training).vector
    ours = AdamW(lr=3e-3, beta1=0.5, beta2=0.9, weight_decay=0.3)
    torch.testing.assert_close(got, finished(tiny(**changes | {"training__optimizer": ours}).training).vector)
    sgd = TorchOptimizer(name="SGD", lr=0.1)
    training = tiny(training__optimizer=sgd, training__steps=1).training
    before, state = State(training), finished(training)
    torch.testing.assert_close(state.vector, before.vector - 0.1 * state.gradient)


@pytest.mark.parametrize(
    ("given", "place", "why"),
    [
        ({"name": "Adma"}, "name", "torch.optim has no 'Adma'; did you mean 'Adamax'"),
        ({"name": "adamw"}, "name", "did you mean 'AdamW'"),
        ({"name": "Optimizer"}, "name", "has no"),
        ({"name": "lr_scheduler"}, "name", "has no"),
        ({"name": "LBFGS"}, "name", "the loss again within a step"),
        ({"name": "SparseAdam"}, "name", "sparse gradients alone"),
        ({"name": "Muon"}, "name", "the optimiser Muon of Moonbed"),
        ({"options": {"beta": 0.9}}, "options.beta", "Adam has no such option; did you mean 'betas'"),
        ({"options": {"lr": 0.1}}, "options.lr", "write the field lr"),
        ({"options": {"params": []}}, "options.params", "no such option"),
        ({"lr": 0}, "lr", "greater than 0"),
    ],
)
def test_what_torch_does_not_have_is_refused_without_importing_it(given, place, why):
    with pytest.raises(SpecError, match=f"^{place}: .*{why}"):
        TorchOptimizer(**given)


def test_names_and_options_are_read_without_importing_torch():
    code = (
        "import sys; from moonbed.experiments.optimizers import TorchOptimizer\n"
        "TorchOptimizer(name='SGD', options={'momentum': 0.9}); print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"


@pytest.mark.parametrize(
    "options",
    [{"betas": [2, 3]}, {"betas": "many"}, {"differentiable": True}, {"fused": True, "foreach": True}],
    ids=str,
)
def test_values_that_torch_refuses_are_refused_when_it_is_built(options):
    optimizer = TorchOptimizer(options=options)
    with pytest.raises(SpecError, match=r"^training.optimizer: torch.optim.Adam: "):
        State(tiny(training__optimizer=optimizer).training)


def test_an_optimizer_that_keeps_more_than_tensors_is_refused(monkeypatch):
    class Counting(torch.optim.SGD):
        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                self.state[p]["count"] = self.state[p].get("count", 0) + 1
                p.grad = p.grad / self.state[p]["count"]
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "SGD", Counting)
    with pytest.raises(SpecError, match="could not be resumed"):
        TorchOptimizer(name="SGD").build([torch.nn.Parameter(torch.ones(2))])


def test_options_may_be_changed_one_by_one():
    changed = TorchOptimizer(name="SGD").replace(**{"options.momentum": "0.9", "options.nesterov": "true"})
    assert changed.options == {"momentum": 0.9, "nesterov": True}
    with pytest.raises(SpecError, match=r"options.momentun: .*did you mean 'momentum'"):
        TorchOptimizer(name="SGD").replace(**{"options.momentun": 0.9})


# Learning rates


RATES = [
    *(cls() for cls in members(LearningRate).values()),
    WarmupLinear(warmup=0),
    WarmupLinear(warmup=5_000),
    WarmupStable(decay=0.0),
    WarmupStable(warmup=0, decay=1.0),
    InverseSqrt(warmup=0, reference=1),
    Step(gamma=0.1, every=100),
]


@pytest.mark.parametrize("rate", RATES, ids=str)
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


def judged(make, steps):
    """The factors of a scheduler that is built around a learning rate of one."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler, factors = make(optimizer), []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


def stable(optimizer, warmup=40, steps=200, last=50):
    parts = [
        lr_scheduler.LinearLR(optimizer, 1 / warmup, 1.0, warmup - 1),
        lr_scheduler.ConstantLR(optimizer, 1.0, 1),
        lr_scheduler.LinearLR(optimizer, 1.0, 0.0, last),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, [warmup, steps - last])


@pytest.mark.parametrize(
    ("rate", "make"),
    [
        (WarmupCosine(warmup=0), lambda o: lr_scheduler.CosineAnnealingLR(o, 200)),
        (WarmupLinear(warmup=0), lambda o: lr_scheduler.PolynomialLR(o, 200, power=1.0)),
        (WarmupLinear(warmup=0), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, 200)),
        (Step(gamma=0.3, every=30), lambda o: lr_scheduler.StepLR(o, 30, 0.3)),
        (WarmupStable(warmup=40, decay=0.25), stable),
        (WarmupStable(warmup=40, decay=0.0), lambda o: lr_scheduler.LinearLR(o, 1 / 40, 1.0, 39)),
        (Constant(), lambda o: lr_scheduler.ConstantLR(o, 1.0)),
    ],
    ids=lambda value: str(value) if hasattr(value, "spec") else "",
)
def test_rates_are_those_of_torch(rate, make):
    assert [rate(step, 200) for step in range(200)] == pytest.approx(judged(make, 200), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("rate", "name"),
    [(WarmupLinear(warmup=40), "linear"), (WarmupStable(warmup=40, decay=0.0), "constant_with_warmup")],
)
def test_warm_ups_are_those_of_diffusers_a_step_earlier(rate, name):
    """Theirs starts with a step of length nothing."""
    theirs = judged(lambda o: get_scheduler(name, o, num_warmup_steps=40, num_training_steps=200), 200)
    ours = [rate(step, 200) for step in range(200)]
    assert ours[:40] == pytest.approx(theirs[1:41])
    assert ours[40:] == pytest.approx(theirs[40:])


def test_inverse_square_root_by_hand():
    rate = InverseSqrt(warmup=10, reference=100)
    assert [rate(k, 1) for k in (0, 4, 9, 50, 100, 400, 10_000)] == pytest.approx([0.1, 0.5, 1, 1, 1, 0.5, 0.1])
    assert rate(400, 500) == rate(400, 100_000)


def test_a_warm_up_longer_than_the_training_does_not_end():
    assert [WarmupLinear(warmup=20)(k, 10) for k in range(10)] == pytest.approx([(k + 1) / 20 for k in range(10)])


def test_the_rate_reaches_the_optimizer():
    """Half of the rate is half of the first step of Adam, whose length is the rate."""
    lengths = []
    for warmup in (1, 2):
        training = tiny(training__steps=1, training__learning_rate=WarmupCosine(warmup=warmup)).training
        before, state = State(training), State(training)
        next(train(training, state))
        lengths.append(float((state.vector - before.vector).detach().abs().max()))
    assert lengths[1] == pytest.approx(lengths[0] / 2, rel=0.02)
