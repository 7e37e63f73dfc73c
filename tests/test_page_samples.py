"""What the page draws is what Python draws: trained networks and exact laws in a browser, from the same noise."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from browser import engine_in
from small import finished, tiny

from moonbed.diffusion import Sampler
from moonbed.diffusion.guidance import CFG
from moonbed.diffusion.likelihood import Flow
from moonbed.diffusion.samplers import DDIM, DPMSolver2M
from moonbed.experiments import Experiment
from moonbed.experiments.evaluate import denoiser_of, exact_of
from moonbed.live.menu import text_of
from moonbed.live.models import Document
from moonbed.networks.mlp import MLP
from moonbed.networks.residual import Residual
from moonbed.targets.boxes import Checkerboard

POINTS = {"mlp": 2000, "residual": 400, "guided": 400, "boxes": 400}
SAMPLERS = (DDIM(steps=16), DPMSolver2M(steps=16, eta=1.0))
COMMON = {"training__schedule": "Cosine", "training__batch": 128, "training__optimizer__lr": 5e-3}
EXPERIMENTS = {
    "mlp": tiny("cosine", **COMMON, training__network=MLP(hidden=(64, 64))),
    "residual": tiny("cosine", **COMMON, training__network=Residual(width=32)),
    "guided": tiny("cosine", **COMMON, training__label_dropout=0.2, label=0, guidance=CFG(scale=2.0)),
}


@pytest.fixture(scope="module")
def made() -> SimpleNamespace:
    """Trained networks, a checkerboard's exact model, and the document of all, with two samplers each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moonbed.live.models.menu", lambda experiment, denoiser: iter(SAMPLERS))
        document = Document()
        weights = {name: finished(e.training).weights_for_sampling() for name, e in EXPERIMENTS.items()}
        index = {name: document.add(name, 0, e, [weights[name]]) for name, e in EXPERIMENTS.items()}
        boxes = EXPERIMENTS["mlp"].replace(**{"training.target": Checkerboard(), "exact": True})
        index["boxes"] = document.add_exact("boxes", 0, boxes)
    live, blob = document.data(), document.blob.bytes()
    denoisers = {name: denoiser_of(e, weights[name], "cpu") for name, e in EXPERIMENTS.items()}
    denoisers["boxes"] = exact_of(boxes)
    return SimpleNamespace(live=live, blob=blob, index=index, denoisers=denoisers, weights=weights)


@pytest.fixture
def opened(page, made):
    """The page with an engine of each kind over the document."""
    engine_in(page, {"live": json.loads(json.dumps(made.live)), "blob": base64.b64encode(made.blob).decode()})
    page.evaluate(
        """() => {
          const open = (wasm) => new Engine(given.live, bytesOfBase64(given.blob).buffer, wasm);
          window.engines = { vectors: open(given.wasm), plain: open(null) };
        }"""
    )
    return page


class Draws:
    """A stream of normal numbers that remembers them."""

    def __init__(self, seed: int) -> None:
        self.generator, self.seen = torch.Generator().manual_seed(seed), []

    def normal(self, shape, dtype=None) -> torch.Tensor:
        self.seen.append(torch.randn(tuple(shape), generator=self.generator))
        return self.seen[-1].to(dtype or torch.float32)


def states_of(denoiser, sampler: Sampler, n: int, shift: float = 0.0) -> tuple[torch.Tensor, list, np.ndarray]:
    """Start, draws and the last state of a sampler in Python; `shift`: by what share of itself the start is moved."""
    draws = Draws(3)
    start = draws.normal((n, 2))
    with torch.no_grad():
        *_, last = sampler.trajectory(denoiser, start * (1 + shift), draws)
    return start, draws.seen[1:], last.double().numpy()


def doubt(denoiser, sampler: Sampler, expected: np.ndarray) -> float:
    """1e-4, or three times what Python's samples move by when the start moves by its rounding.

    Layer norms and guidance amplify that in single points, where float32 and float64 differ as much in Python.
    """
    moved = states_of(denoiser, sampler, len(expected), 1e-7)[2]
    return max(1e-4, 3 * np.abs(moved - expected).max())


def sampled(page, made, kind: str, name: str, sampler: Sampler, start, draws, w=None) -> np.ndarray:
    model = made.index[name]
    plan = next(p for p in made.live["models"][model]["plans"] if made.live["plans"][p]["text"] == text_of(sampler))
    question = {"model": model, "plan": plan, "x": start.flatten().tolist(), "w": w}
    question["noise"] = [d.flatten().tolist() for d in draws]
    last = "([kind, q]) => { let x; for (const s of engines[kind].sample(q)) x = s.x; return Array.from(x); }"
    return np.array(page.evaluate(last, [kind, question])).reshape(-1, 2)


def test_all_are_live(made):
    kinds = {name: (m["kind"], m["reason"]) for name, m in ((n, made.live["models"][i]) for n, i in made.index.items())}
    assert kinds == dict.fromkeys(EXPERIMENTS, ("learned", "")) | {"boxes": ("exact", "")}


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: text_of(s))
@pytest.mark.parametrize("name", [*EXPERIMENTS, "boxes"])
def test_samples_are_those_of_python(name, sampler, opened, made):
    start, draws, expected = states_of(made.denoisers[name], sampler, POINTS[name])
    assert len(draws) == (0 if isinstance(sampler, DDIM) else 16)
    allowed = doubt(made.denoisers[name], sampler, expected)
    assert allowed < 5e-3
    assert allowed == 1e-4 or name in {"residual", "guided"}
    for kind in ("vectors", "plain"):
        found = sampled(opened, made, kind, name, sampler, start, draws)
        assert np.abs(found - expected).max() < allowed, kind
        assert np.median(np.abs(found - expected)) < 1e-5, kind


def test_guidance_changes_its_scale_on_the_page(opened, made):
    strong: Experiment = EXPERIMENTS["guided"].replace(guidance=CFG(scale=3.5))
    start, draws, expected = states_of(denoiser_of(strong, made.weights["guided"], "cpu"), SAMPLERS[0], 400)
    found = sampled(opened, made, "vectors", "guided", SAMPLERS[0], start, draws, w=3.5)
    assert np.abs(found - expected).max() < 1e-4
    assert np.abs(found - sampled(opened, made, "vectors", "guided", SAMPLERS[0], start, draws)).max() > 0.1


@pytest.mark.parametrize("name", [*EXPERIMENTS, "boxes"])
def test_levels_hold_the_denoiser(name, opened, made):
    x = Draws(4).normal((300, 2))
    question = {"model": made.index[name], "points": x.flatten().tolist()}
    for level in (0, 30, 64):
        times = "([q, l]) => engines.vectors.subject(q.model).levels.t[l]"
        t = opened.evaluate(times, [question, level])
        answer = "(q) => Array.from(engines.vectors.denoise(q))"
        found = opened.evaluate(answer, {**question, "level": level})
        with torch.no_grad():
            expected = made.denoisers[name](x, torch.tensor(t, dtype=torch.float64)).double().flatten().numpy()
        scale = 1 + np.abs(expected).max()
        assert np.abs(np.array(found) - expected).max() < 1e-5 * scale, level


def test_the_density_is_that_of_the_flow(opened, made):
    """65 levels by Heun's method, against 512 steps of the likelihood's solver, where there is density."""
    grid = {"x0": -2, "x1": 2, "y0": -2, "y1": 2, "nx": 12, "ny": 12}
    question = {"model": made.index["mlp"], "level": 64, "grid": grid}
    run = """(q) => {
      const run = engines.vectors.density(q);
      for (let step = run.next(); ; step = run.next()) if (step.done) return Array.from(step.value.learned);
    }"""
    found = np.array(opened.evaluate(run, question))
    t = opened.evaluate(
        "(m) => { const l = engines.vectors.subject(m).levels; return l.alpha[64]; }", question["model"]
    )
    axis = torch.linspace(-2, 2, 12, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).reshape(-1, 2)
    flow = Flow(made.denoisers["mlp"])
    expected = flow.log_prob(points / t).numpy() - 2 * np.log(t)
    dense = expected > -4
    assert dense.sum() > 20
    assert np.median(np.abs(found - expected)[dense]) < 0.06
