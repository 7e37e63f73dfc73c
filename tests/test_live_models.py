"""Documents: what a page is given to run, against the Python that it stands for."""

import json
import math

import numpy as np
import pytest
import torch
from live_reader import Reader
from small import only_here, tiny
from torch import nn

from moonbed.diffusion.guidance import CFG, AutoGuidance
from moonbed.diffusion.predictions import Velocity
from moonbed.diffusion.samplers import DDIM, RK45, DPMSolver2M, Heun, Jump, Renoise
from moonbed.diffusion.schedules import VE, Linear
from moonbed.experiments import Experiment
from moonbed.experiments.evaluate import denoiser_of, exact_of
from moonbed.experiments.run import run
from moonbed.experiments.storage.store import Store
from moonbed.experiments.weights import denoiser_in
from moonbed.live import Document, document
from moonbed.live.fakes import states
from moonbed.live.laws import Unknown, describe, parts
from moonbed.live.menu import STEPS, short, text_of
from moonbed.live.pack import Blob
from moonbed.networks import Network
from moonbed.networks.flow import SplineFlow
from moonbed.rng import Rng
from moonbed.targets import Target
from moonbed.targets.boxes import Checkerboard
from moonbed.targets.curves import Curve, Rings, TwoMoons
from moonbed.targets.empirical import Points
from moonbed.targets.lifted import Lifted
from moonbed.targets.mixtures import EightGaussians, FractalTree, GaussianGrid
from moonbed.targets.published import PublishedMoons
from moonbed.targets.tilted import Tilted

N = 40


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("runs"))


def random_weights(experiment, seed=0):
    """Weights of each network of an experiment that no training has made."""
    stream = Rng(seed).stream("weights")
    return [{k: v + 0.3 * stream.normal(v.shape) for k, v in t.build().state_dict().items()} for t in experiment.needs]


def added(experiment, samples=None):
    """(reader, index of the model, its denoiser in Python) of an experiment with some weights."""
    made, weights = Document(), random_weights(experiment)
    index = made.add("mine", 0, experiment, weights, samples)
    return Reader(made.data(), made.blob.bytes()), index, denoiser_of(experiment, weights[0], "cpu", *weights[1:])


def agree(reader, index, sampler, denoiser, w=None, tolerance=1e-4):
    """Whether a plan of a model gives the samples that Python gives, in float32."""
    model = reader.live["models"][index]
    (plan,) = [p for p in model["plans"] if reader.live["plans"][p]["text"] == text_of(sampler)]
    rng = Rng(1)
    start, drawn = rng.stream("start").normal((N, model["dim"])), []

    def normal(shape):
        drawn.append(rng.stream("draw", len(drawn)).normal(shape))
        return drawn[-1].clone()

    wanted = [x.clone().double().numpy() for x in states(sampler, denoiser, start.clone(), normal)]
    got = list(reader.sample(index, plan, start.numpy(), lambda k: drawn[k].numpy(), w))[1:]
    assert len(got) == len(wanted)
    assert np.isfinite(wanted[-1]).all()
    scale = 1 + np.abs(wanted[-1]).max()
    assert np.abs(got[-1] - wanted[-1]).max() < tolerance * scale


# A store


@pytest.mark.slow
def test_the_document_of_a_store(store):
    experiments = {"plain": tiny(), "ema": tiny("ema", seed=2), "fast": tiny("fast")}
    run(experiments, metrics=(), store=store, device="cpu")
    live, blob = document([(name, k, e) for k, (name, e) in enumerate(experiments.items())], store)
    json.dumps(live, allow_nan=False)
    reader = Reader(live, blob)
    models = {m["name"]: (k, m) for k, m in enumerate(live["models"])}
    assert [m["kind"] for _, m in models.values()].count("exact") == 2  # linear betas, variance exploding
    for name, experiment in experiments.items():
        index, model = models[name]
        denoiser = denoiser_in(store, experiment, "cpu")
        assert (model["kind"], model["reason"], model["own"]) == ("learned", "", True)
        assert model["parameters"] == experiment.training.parameters()
        assert live["plans"][model["plans"][0]]["text"] == text_of(experiment.sampler)
        for sampler in (experiment.sampler, Heun(steps=8), DPMSolver2M(eta=1.0, steps=16)):
            agree(reader, index, sampler, denoiser)
        exact = live["models"][model["exact"]]
        assert exact["kind"] == "exact"
        assert exact["law"] == model["law"]
        agree(reader, model["exact"], DDIM(steps=16), exact_of(experiment.replace(exact=True)))
        points = reader.array(model["samples"]["points"])
        assert points.shape == (100 - model["samples"]["outside"], 2)
    assert models["plain"][1]["exact"] == models["ema"][1]["exact"]
    assert models["plain"][1]["plans"] == models["ema"][1]["plans"]


def test_recorded_samples_are_those_of_the_store(store):
    run(tiny(), metrics=(), store=store, device="cpu")
    live, blob = document([("a", 0, tiny())], store)
    data = live["models"][-1]["samples"]
    low, high = (np.array(data[k]) for k in ("low", "high"))
    points = low + Reader(live, blob).array(data["points"]) / 65535 * (high - low)
    samples = np.load(store.experiment(tiny()).path / "samples.npy")
    inside = samples[(np.abs(samples) <= 6).all(1)]
    assert data["outside"] == len(samples) - len(inside)
    assert np.allclose(points, inside, atol=(high - low).max() / 60_000)


def test_what_is_not_trained_is_recorded_and_says_so(store):
    live, _ = document([("never", 3, tiny(training__seed=77))], store)
    model = live["models"][-1]
    assert (model["kind"], model["plans"], model["row"]) == ("recorded", [], 3)
    assert "not done" in model["reason"]


def test_equal_weights_are_stored_once(store):
    one = document([("a", 0, tiny())], store)[1]
    more = document([("a", 0, tiny()), ("b", 1, tiny(sampler__steps=6))], store)[1]
    assert len(more) - len(one) < 1200


# Models


def test_levels_are_the_denoiser():
    experiment = tiny("fast")
    reader, index, denoiser = added(experiment)
    levels = reader.live["levels"][reader.live["models"][index]["levels"]]
    t = reader.array(levels["t"])
    assert len(t) == 65
    assert t[0] == 1 > t[1] > t[-1] == 0
    logsnr = 2 * np.log(reader.array(levels["alpha"]) / reader.array(levels["sigma"]))
    assert np.allclose(np.diff(logsnr), np.diff(logsnr).mean())
    x = Rng(0).stream("x").normal((N, 2))
    for level in (0, 30, 64):
        with torch.no_grad():
            wanted = denoiser(x, float(t[level])).numpy()
        assert np.allclose(reader.denoise(index, level, x.numpy()), wanted, atol=1e-5 * (1 + np.abs(wanted).max()))


@pytest.mark.parametrize("guidance", [CFG(scale=2.5), AutoGuidance(scale=1.5), None], ids=["cfg", "auto", "label"])
def test_labels_and_guidance(guidance):
    auto = isinstance(guidance, AutoGuidance)
    plain = tiny("fast", training__objective={"type": "Denoising"}, training__label_dropout=0.1, label=1)
    guide = plain.training.replace(steps=100) if auto else None
    experiment = plain.replace(guidance=guidance, guide=guide)
    reader, index, denoiser = added(experiment)
    model = reader.live["models"][index]
    assert len(model["functions"]) == 1 + auto
    agree(reader, index, Heun(steps=8), denoiser)
    if guidance is not None:
        assert model["guidance"] == {"type": type(guidance).__name__, "scale": guidance.scale}
        weights = random_weights(experiment)
        other = experiment.replace(guidance=guidance.replace(scale=0.5))
        agree(reader, index, DDIM(steps=8), denoiser_of(other, weights[0], "cpu", *weights[1:]), w=0.5)
        exact = plain.replace(exact=True, guidance=None if auto else guidance)
        agree(reader, model["exact"], DDIM(steps=8), exact_of(exact))
    assert reader.live["laws"][model["law"]]["kind"] == "mixture"


def test_a_flow_map_jumps():
    training = tiny("fast").training.replace(schedule=Linear(), prediction=Velocity(), objective={"type": "Shortcut"})
    reader, index, denoiser = added(Experiment(training=training, sampler=Jump(steps=4)))
    texts = [reader.live["plans"][p]["text"] for p in reader.live["models"][index]["plans"]]
    assert texts[0] == "Jump, 4 steps"
    assert {f"{name}, 8 steps" for name in ("Jump", "DDIM", "Heun")} <= set(texts)
    agree(reader, index, Jump(steps=2), denoiser)


def test_a_consistency_model_has_its_own_menu():
    training = tiny("fast").training.replace(objective={"type": "ConsistencyTraining"}, optimizer={"type": "AdamW"})
    reader, index, denoiser = added(Experiment(training=training, sampler=Renoise(steps=2)))
    names = {reader.live["plans"][p]["sampler"] for p in reader.live["models"][index]["plans"]}
    assert names == {"Renoise"}
    agree(reader, index, Renoise(steps=4), denoiser)


def test_a_prior_is_a_law_that_the_start_is_drawn_from():
    prior = EightGaussians()
    training = tiny("fast").training.replace(
        schedule=Linear(), prediction=Velocity(), prior=prior, objective={"type": "Denoising"}
    )
    reader, index, denoiser = added(Experiment(training=training, sampler=DDIM(steps=4)))
    model = reader.live["models"][index]
    assert torch.allclose(reader.law(model["prior"]).centres, prior.mixture.centres)
    assert not any(reader.live["plans"][p]["stochastic"] for p in model["plans"])
    assert model["exact"] is None
    agree(reader, index, Heun(steps=4), denoiser)


def test_another_schedule_to_sample_under():
    reader, index, denoiser = added(tiny(schedule=VE(), sampler=DDIM(steps=6)))
    agree(reader, index, DDIM(steps=6), denoiser)
    assert reader.live["models"][reader.live["models"][index]["exact"]]["kind"] == "exact"


def test_a_sampler_without_a_plan_leaves_the_menu():
    reader, index, _ = added(tiny("fast", sampler=RK45()))
    model = reader.live["models"][index]
    assert (model["kind"], model["own"]) == ("learned", False)
    assert "RK45 chooses its steps" in model["reason"]
    assert len(model["plans"]) == 5 * len(STEPS)


def test_a_density_is_recorded():
    pytest.importorskip("zuko")
    training = tiny().training.replace(network=SplineFlow(hidden=(8,)), objective={"type": "MaximumLikelihood"})
    made = Document()
    experiment = Experiment(training=training, sampler={"type": "Draw"})
    index = made.add("flow", 0, experiment, [training.build().state_dict()])
    assert made.data()["models"][index]["kind"] == "recorded"
    assert "density" in made.data()["models"][index]["reason"]


def test_exact_experiments_are_models():
    made = Document()
    index = made.add_exact("perfect", 4, tiny(exact=True, sampler=Heun(steps=8)))
    reader = Reader(made.data(), made.blob.bytes())
    assert (reader.live["models"][index]["kind"], reader.live["models"][index]["row"]) == ("exact", 4)
    agree(reader, index, Heun(steps=8), exact_of(tiny()))


# What strangers write


class Wavy(Network):
    """Sines of sines."""

    width: int = 9

    def build(self, dim):
        return _Wavy(dim, self.width)


class _Wavy(nn.Module):
    def __init__(self, dim, width):
        super().__init__()
        self.a, self.b, self.gate = nn.Linear(dim, width), nn.Linear(width, dim), nn.Linear(1, width)

    def forward(self, x, c_noise):
        h = torch.sin(self.a(x)) * torch.sigmoid(self.gate(c_noise[:, None]))
        return self.b(torch.where(h > 0, h, 0.1 * h.sinh())) / (1 + x.norm(dim=1, keepdim=True))


class Sorted(Network):
    """What the page cannot do."""

    def build(self, dim):
        return _Sorted(dim)


class _Sorted(_Wavy):
    def __init__(self, dim):
        super().__init__(dim, 4)

    def forward(self, x, c_noise):
        return self.b(torch.sort(self.a(x) + c_noise, dim=1).values)


class Ring(Curve):
    """A circle."""

    noise: float = 0.1

    def point(self, u, arc):
        return torch.stack([torch.cos(2 * math.pi * u), torch.sin(2 * math.pi * u)], dim=-1)


class Disc(Target):
    """Known by its sampler alone, as good as."""

    def sample(self, n, stream):
        return stream.normal((n, 2), torch.float64)

    def log_prob(self, x, alpha=1.0, sigma=0.0):
        return -(x**2).sum(1) / 2

    def denoise(self, x_t, alpha, sigma):
        return alpha / (alpha**2 + sigma**2) * x_t


known = only_here(Wavy, Sorted, Ring, Disc)


def test_a_strangers_network_and_target():
    reader, index, denoiser = added(tiny("fast", training__network=Wavy(), training__target=Ring()))
    agree(reader, index, Heun(steps=8), denoiser)
    assert reader.live["models"][index]["exact"] is not None


def test_a_network_without_a_tape_is_recorded():
    reader, index, _ = added(tiny("fast", training__network=Sorted()), np.zeros((20, 2)))
    model = reader.live["models"][index]
    assert model["kind"] == "recorded"
    assert "sort" in model["reason"]
    assert reader.array(model["samples"]["points"]).shape == (20, 2)
    assert model["exact"] is not None


def test_a_law_that_the_page_cannot_have_leaves_a_model_alive():
    reader, index, denoiser = added(tiny("fast", training__target=Disc()))
    model = reader.live["models"][index]
    assert (model["kind"], model["exact"]) == ("learned", None)
    assert "Disc" in reader.live["laws"][model["law"]]["reason"]
    agree(reader, index, DDIM(steps=8), denoiser)


# Laws


LAWS = [
    TwoMoons(), PublishedMoons(), Rings(), Ring(), EightGaussians(), GaussianGrid(), FractalTree(depth=3),
    Checkerboard(), TwoMoons().given(1), Checkerboard().given(3), FractalTree(depth=3).given(0), Tilted(guidance=1.0),
    Tilted(target=Checkerboard()), Lifted(target=EightGaussians(), dim=2),
]  # fmt: skip


@pytest.mark.parametrize("law", LAWS, ids=lambda law: str(law).replace("\n", "")[:50])
def test_a_law_is_its_target(law):
    blob = Blob()
    live = {"laws": {"law": describe(law, blob.add)}}
    found = Reader(live, blob.bytes()).law("law")
    x = law.sample(50, Rng(0).stream("x"))
    for alpha, sigma in ((1.0, 0.01), (0.7, 0.7), (1.0, 20.0)):
        x_t = alpha * x + sigma * Rng(1).stream("noise").normal(x.shape, torch.float64)
        assert torch.allclose(found.log_prob(x_t, alpha, sigma), law.log_prob(x_t, alpha, sigma), rtol=1e-9)
        assert torch.allclose(found.denoise(x_t, alpha, sigma), law.denoise(x_t, alpha, sigma), rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "law", [Tilted(), Tilted(target=EightGaussians(std=1.5), guidance=3.0)], ids=["moons", "eight"]
)
def test_a_tilted_law_is_a_mixture_near_it(law):
    found, _ = parts(law)
    x = law.sample(300, Rng(0).stream("x"))
    assert float((found.log_prob(x) - law.log_prob(x)).abs().max()) < 0.01
    assert torch.allclose(found.denoise(x, 1.0, 0.3), law.denoise(x, 1.0, 0.3), atol=1e-4)


def test_points_of_a_file(tmp_path):
    points = Rng(0).stream("points").normal((60, 2)).numpy()
    np.save(tmp_path / "mine.npy", points)
    test_a_law_is_its_target(Points(file=str(tmp_path / "mine.npy")))
    np.save(tmp_path / "many.npy", np.tile(points, (100, 1)))
    with pytest.raises(Unknown, match="6,000 parts"):
        parts(Points(file=str(tmp_path / "many.npy")))


@pytest.mark.parametrize(("law", "words"), [(Lifted(), "16 dimensions"), (Disc(), "Disc"), (Lifted(dim=2), "round")])
def test_a_law_that_is_no_mixture_is_refused_in_words(law, words):
    with pytest.raises(Unknown, match=words):
        parts(law)


def test_names_say_what_is_not_by_default():
    assert text_of(DDIM(steps=1)) == "DDIM, 1 step"
    assert text_of(tiny("ddpm", sampler__steps=1000).sampler) == "DDPMScheduler, 1,000 steps"
    assert short(DPMSolver2M(eta=1.0), "steps") == "DPMSolver2M(eta=1)"
