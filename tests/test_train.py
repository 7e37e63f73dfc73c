"""Training: equal to plain PyTorch with diffusers, resumable at every block, and honest about divergence."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import load, save
from small import finished, tiny
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from moonbed.diffusion.objectives import Denoising
from moonbed.experiments.averaging import EMA
from moonbed.experiments.optimizers import AdamW, WarmupCosine
from moonbed.experiments.train import Diverged, State, train
from moonbed.networks.residual import Residual

BLOCK = "moonbed.experiments.train.BLOCK"


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def spied(monkeypatch, change=lambda loss, k: loss):
    """The points of all blocks, and the losses of all steps; `change(loss, step)` puts another loss in its place."""
    points, losses, examples, real = [], [], Denoising.examples, Denoising.loss

    def drawn(self, prediction, schedule, rows, data, stream):
        points.append(rows.x0.clone())
        return examples(self, prediction, schedule, rows, data, stream)

    def loss(self, network, batch):
        out = change(real(self, network, batch), len(losses) + 1)
        losses.append(float(out.detach().mean()))
        return out

    monkeypatch.setattr(Denoising, "examples", drawn)
    monkeypatch.setattr(Denoising, "loss", loss)
    return points, losses


# The average


def path(steps: int) -> list[list[torch.Tensor]]:
    g = torch.Generator().manual_seed(0)
    shapes = [(3, 2), (5,)]
    return [[torch.randn(s, generator=g) + k / 10 for s in shapes] for k in range(steps + 1)]


def averaged(ema: EMA, weights: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    averages, *after = (torch.cat([w.reshape(-1) for w in now]) for now in weights)
    averages = averages[None].clone()
    for step, now in enumerate(after, 1):
        ema.update(averages, now, step)
    parts = averages[0].split([w.numel() for w in weights[0]])
    return [part.view(w.shape) for part, w in zip(parts, weights[0], strict=True)]


@pytest.mark.parametrize("decay", [0.999, 0.5])
@pytest.mark.parametrize("steps", [1, 2, 5, 60])
def test_ema_is_that_of_diffusers(steps, decay):
    weights = path(steps)
    parameters = [torch.nn.Parameter(w.clone()) for w in weights[0]]
    judge = EMAModel(parameters, decay=decay)
    for now in weights[1:]:
        for p, w in zip(parameters, now, strict=True):
            p.data.copy_(w)
        judge.step(parameters)
    for got, wanted in zip(averaged(EMA(decay=decay), weights), judge.shadow_params, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 60])
def test_ema_without_warm_up_is_that_of_torch(steps):
    weights = path(steps)
    model = torch.nn.Module()
    model.p = torch.nn.ParameterList([torch.nn.Parameter(w.clone()) for w in weights[0]])
    judge = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for now in weights:  # the first update takes the initial weights, from which ours starts
        for p, w in zip(model.p, now, strict=True):
            p.data.copy_(w)
        judge.update_parameters(model)
    for got, wanted in zip(averaged(EMA(decay=0.9, warmup=False), weights), judge.module.p, strict=True):
        torch.testing.assert_close(got, wanted.data, rtol=1e-5, atol=1e-6)


def test_the_average_of_a_training_is_that_of_diffusers(monkeypatch):
    """Fed the weights after every step; and it is what sampling gets."""
    monkeypatch.setattr(BLOCK, 1)
    training = tiny("ema", training__steps=40).training
    state = State(training)
    judge = EMAModel(state.weights, decay=0.999)
    for _ in train(training, state):
        judge.step(state.weights)
    for got, wanted in zip(state.parts(state.averages[0]), judge.shadow_params, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    names = [name for name, _ in state.network.named_parameters()]
    sampled = state.weights_for_sampling()
    assert all(torch.equal(sampled[n], a) for n, a in zip(names, state.parts(state.averages[0]), strict=True))
    assert not all(torch.equal(sampled[n], w) for n, w in zip(names, state.weights, strict=True))


def test_without_an_average_sampling_gets_the_last_weights():
    state = finished(tiny(training__steps=20).training)
    assert equal(state.weights_for_sampling(), dict(state.network.state_dict()))


# The step


def by_hand(training, steps: int, betas: str = "linear") -> dict[str, torch.Tensor]:
    """The write-up's loop, with torch and diffusers alone; only the random numbers come from our streams."""
    rng = training.rng
    data = training.target.dataset(training.points, rng.stream("data")).float()
    network = training.build()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule=betas)
    order = rng.stream("epoch", 0).permutation(training.points)
    stream = rng.stream("block", 0)
    u = stream.uniform((steps * training.batch,), torch.float64)
    all_timesteps = (1000 * u).long().split(training.batch)
    all_eps = stream.normal((steps * training.batch, training.target.dim)).split(training.batch)
    for step, (timesteps, eps) in enumerate(zip(all_timesteps, all_eps, strict=True)):
        x0 = data[order[step * training.batch : (step + 1) * training.batch]]
        prediction = network(scheduler.add_noise(x0, eps, timesteps), timesteps / 999)
        loss = torch.nn.functional.mse_loss(prediction, eps)
        optimizer.zero_grad()
        loss.backward()
        if training.clip is not None:
            torch.nn.utils.clip_grad_norm_(network.parameters(), training.clip)
        optimizer.step()
    return network.state_dict()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ddpm", {}),
        ("ddpm", {"training__clip": 1e-3}),
        ("ddpm", {"training__clip": None}),
        ("cosine", {}),
        ("residual", {"training__network": Residual(width=16, blocks=2)}),
    ],
)
def test_a_step_is_that_of_plain_pytorch(name, changes):
    training = tiny(name, training__steps=5, **changes).training
    got = finished(training).network.state_dict()
    wanted = by_hand(training, 5, training.schedule.betas)
    start = training.build().state_dict()
    assert got.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(got[key], value, rtol=0, atol=2e-5, msg=key)
    assert max(float((got[k] - start[k]).abs().max()) for k in got) > 3e-3


def test_the_gradient_is_clipped():
    clipped, free = (
        finished(tiny(training__steps=30, training__clip=c).training).network.state_dict() for c in (1e-4, None)
    )
    assert max(float((clipped[k] - free[k]).abs().max()) for k in free) > 1e-4


def test_batches_go_through_the_points_without_replacement(monkeypatch):
    points, _ = spied(monkeypatch)
    training = tiny(training__points=100, training__batch=30, training__steps=7).training
    data = training.target.dataset(100, training.rng.stream("data")).float()
    finished(training)
    batches = torch.cat(points).split(30)
    assert [len(b) for b in batches] == [30] * 7  # the partial batch of ten is dropped
    where = [[int(row) for row in (data == x).all(1).nonzero()] for b in batches for x in b]
    index = [w[0] for w in where]
    epochs = [index[:90], index[90:180], index[180:]]
    assert [len(set(e)) for e in epochs] == [90, 90, 30]
    assert epochs[0] != epochs[1]
    assert set(epochs[0]) != set(epochs[1])  # other points are left out
    assert epochs[0][:30] != epochs[2]


def test_a_line_of_the_log_is_the_mean_of_its_block(monkeypatch):
    _, losses = spied(monkeypatch)
    state = finished(tiny(training__steps=250).training)
    assert [line["step"] for line in state.log] == [100, 200, 250]
    for line, block in zip(state.log, (losses[:100], losses[100:200], losses[200:]), strict=True):
        assert line["loss"] == pytest.approx(sum(block) / len(block), rel=1e-6)
    assert state.log[-1]["loss"] < state.log[0]["loss"]


def test_a_training_that_is_done_yields_nothing():
    training = tiny(training__steps=10).training
    state = finished(training)
    before = copy.deepcopy(state.tensors())
    assert list(train(training, state)) == []
    assert equal(before, state.tensors())


# Stop and resume

VARIANTS = {
    "plain": tiny(training__steps=40),
    "ema": tiny("ema", training__steps=40),
    "dropout": tiny("residual", training__steps=40, training__network=Residual(width=16, blocks=1, dropout=0.3)),
    "optimiser": tiny(training__steps=40, training__optimizer=AdamW(lr=3e-3, beta1=0.5, weight_decay=0.3)),
    "epochs": tiny("ema", training__steps=40, training__points=200, training__batch=60),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_stop_and_resume_is_uninterrupted_bit_for_bit(monkeypatch, name):
    monkeypatch.setattr(BLOCK, 10)
    training = VARIANTS[name].training
    state, kept = State(training), []
    for _ in train(training, state):
        tensors, step, log = state.snapshot()
        kept.append((save(tensors), step, log))  # as the store keeps them
    assert [step for _, step, _ in kept] == [10, 20, 30, 40]
    for data, step, log in kept[:-1]:
        resumed = State(training)
        resumed.load(load(data), step, log)
        finished(training, resumed)
        assert equal(resumed.tensors(), state.tensors())
        assert equal(resumed.weights_for_sampling(), state.weights_for_sampling())
        assert resumed.log == state.log


def test_a_state_may_be_trained_on_without_being_loaded_again(monkeypatch):
    """The learning rate's peak is the configuration's, not what the last step made of it."""
    monkeypatch.setattr(BLOCK, 10)
    training = VARIANTS["plain"].training.replace(learning_rate=WarmupCosine(warmup=5))
    state = State(training)
    next(train(training, state))
    assert equal(finished(training, state).tensors(), finished(training).tensors())


def test_a_snapshot_does_not_move_with_the_state():
    training = tiny("ema", training__steps=20).training
    state = State(training)
    tensors, step, log = state.snapshot()
    before = copy.deepcopy(tensors)
    finished(training, state)
    assert equal(tensors, before)
    assert (step, log) == (0, [])
    assert not equal(state.tensors(), before)


def test_the_seed_is_all_that_is_random():
    a, again, b = (finished(tiny(training__steps=20, training__seed=s).training).tensors() for s in (0, 0, 1))
    assert equal(a, again)
    assert not any(torch.equal(a[k], b[k]) for k in a if k.startswith("network.") and "weight" in k)
    first, second = (tiny(training__seed=s).training.build().state_dict() for s in (0, 1))
    assert not torch.equal(first["layers.0.weight"], second["layers.0.weight"])


def test_dropout_neither_reads_nor_moves_the_global_generator():
    training = VARIANTS["dropout"].training
    out = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        out.append(finished(training).tensors())
        assert torch.equal(torch.get_rng_state(), before)
    assert equal(*out)
    without = finished(training.replace(**{"network.dropout": 0.0})).tensors()
    assert not equal(out[0], without)


# Divergence


def test_a_step_that_is_too_long_diverges():
    training = tiny("ema", training__optimizer=AdamW(lr=1e30)).training
    state = State(training)
    start = copy.deepcopy(state.tensors())
    with pytest.raises(Diverged, match=r"diverged at step 2 \(loss (nan|inf)\)") as error:
        finished(training, state)
    assert error.value.step == 2
    assert state.step == 0
    assert equal(state.tensors(), start)
    assert all(bool(w.isfinite().all()) for w in state.weights_for_sampling().values())


def test_divergence_names_the_step_and_keeps_the_last_good_block(monkeypatch):
    training = tiny("ema").training
    at_100 = State(training)
    next(train(training, at_100))
    kept = at_100.snapshot()
    spied(monkeypatch, lambda loss, k: loss * float("nan") if k == 137 else loss)
    state = State(training)
    with pytest.raises(Diverged) as error:
        finished(training, state)
    assert error.value.step == 137
    assert state.step == 100
    assert equal(state.tensors(), kept[0])
    assert state.log == kept[2]


def test_a_weight_that_is_not_finite_is_noticed_though_the_loss_is(monkeypatch):
    """The gradient of sqrt at 0 is infinite: the loss of the last step of a block is fine, its weights are not."""
    training = tiny(training__steps=100).training
    state = State(training)

    def change(loss, k):
        return loss + (0 * loss).sqrt() if k == 100 else loss

    spied(monkeypatch, change)
    with pytest.raises(Diverged) as error:
        finished(training, state)
    assert error.value.step == 100
    assert state.step == 0
    assert all(bool(w.isfinite().all()) for w in state.weights)


# Ahead


@pytest.mark.parametrize("name", VARIANTS)
def test_a_block_prepared_ahead_is_the_same(monkeypatch, name):
    monkeypatch.setattr(BLOCK, 15)
    training = VARIANTS[name].training
    plain, state = finished(training), State(training)
    for _ in train(training, state, ahead=True):
        pass
    assert equal(state.tensors(), plain.tensors())
    assert state.log == plain.log


def test_a_thread_that_fails_says_why(monkeypatch):
    def broken(*args):
        raise ZeroDivisionError("in the objective")

    monkeypatch.setattr(Denoising, "examples", broken)
    with pytest.raises(ZeroDivisionError, match="in the objective"):
        list(train(tiny().training, State(tiny().training), ahead=True))
