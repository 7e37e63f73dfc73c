"""The boards that Moonbed has: which rows, which columns and which metrics answer a question."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from moonbed.component import Component, SpecError, members, nearest
from moonbed.diffusion import Exact, Prediction, Sampler
from moonbed.diffusion.counting import Counted
from moonbed.diffusion.density import Draw, MaximumLikelihood
from moonbed.diffusion.objectives import Denoising
from moonbed.diffusion.predictions import Velocity
from moonbed.diffusion.samplers import Euler, Spacing, UniformTime
from moonbed.diffusion.schedules import VE, Linear, Trigonometric, VPLinear
from moonbed.experiments.board import Board
from moonbed.experiments.optimizers import AdamW, WarmupCosine
from moonbed.experiments.presets import FAST
from moonbed.experiments.spec import Experiment, Training
from moonbed.metrics import Metric
from moonbed.metrics.density import OffSupport
from moonbed.metrics.detection import N50
from moonbed.metrics.model import KL, Girsanov
from moonbed.metrics.transport import W2, SlicedW1Law
from moonbed.networks.flow import SplineFlow
from moonbed.networks.mlp import MLP
from moonbed.rng import Rng
from moonbed.targets.curves import TwoMoons
from moonbed.targets.mixtures import EightGaussians

__all__ = ["BOARDS", "board"]


def board(name: str) -> Board:
    """The board of that name. Raises `SpecError` with the nearest valid one."""
    if name not in BOARDS:
        raise SpecError([("", f"no board is called {name!r}; {nearest(name, BOARDS)}")])
    return BOARDS[name]()


BUDGETS = (5, 10, 20, 50, 100)
"""Evaluations of the network for one sample."""
FEW = (1, 2, 4, 8)
METRICS: tuple[Metric, ...] = (N50(), OffSupport(), SlicedW1Law())
"""How many samples give the model away; what lies where nothing should; how far the mass is from where it should be."""


def ours(kind: type[Component]) -> list[str]:
    """Names of the members of a kind that are no plug-ins."""
    return [name for name, cls in members(kind).items() if not cls._plugin]


def samplers() -> Board:
    """Every native sampler on one trained network, by evaluations."""
    rows: dict[str, Any] = {name: {"type": name} for name in ours(Sampler) if name not in _OTHER}
    rows |= {
        f"{name} {spacing}": {"type": name, "spacing": spacing}
        for name in ("DDIM", "DPMSolver2M", "UniPC")
        for spacing in ours(Spacing)
        if spacing not in ("UniformLogSNR", "UniformTime")  # the same under VE
    }
    rows["DDIM eta 1"] = {"type": "DDIM", "eta": 1.0}
    rows["DPMSolver2M eta 1"] = {"type": "DPMSolver2M", "eta": 1.0}
    rows["DPMSolver2M eta .5 SinhLogSNR"] = {"type": "DPMSolver2M", "eta": 0.5, "spacing": "SinhLogSNR"}
    rows |= {f"diffusers {name}": {"type": "Diffusers", "scheduler": f"{name}Scheduler"} for name in _SCHEDULERS}
    cells, notes = {}, {}
    for row, spec in rows.items():
        for budget in BUDGETS:
            found = within(Sampler.parse(spec), budget)
            if found is None:
                notes[row, str(budget)] = "too few"
            cells[row, str(budget)] = FAST.replace(sampler=found or Sampler.parse(spec))
    kept = {place: e for place, e in cells.items() if place not in notes}
    return Board(
        "samplers",
        "Which sampler, for how many evaluations? The network of `fast`, the probability flow or its SDE.",
        kept,
        METRICS,
        "DDIM",
        across="evaluations at most",
        notes=notes,
    )


_OTHER = {"Diffusers", "Draw", "Renoise", "Jump"}
_SCHEDULERS = ("DDPM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep", "DEISMultistep")


def within(sampler: Sampler, budget: int) -> Sampler | None:
    """The sampler with as many steps as a number of evaluations allows; None where it needs more for one step."""
    law, schedule = EightGaussians(), FAST.training.schedule

    def cost(sampler: Sampler) -> int:
        counted = Counted(Exact(law, schedule))
        noise = Rng(0).stream("cost").normal((2, 2))
        try:
            for _ in sampler.trajectory(counted, noise, Rng(0).stream("sampler")):
                pass
        except ValueError:
            return budget + 1
        return counted.evaluations

    if sampler.adaptive:
        options = [sampler.replace(rtol=10.0**-k, atol=10.0**-k) for k in range(6)]
        fits = [option for option in options if cost(option) <= budget]
        return fits[-1] if fits else None
    one = cost(sampler.replace(steps=1))
    steps = 1 + (budget - one) // max(1, cost(sampler.replace(steps=2)) - one)
    found = sampler.replace(steps=max(1, steps))
    return found if cost(found) <= budget else None


def objectives() -> Board:
    """Prediction, schedule and objective at an equal budget."""
    schedules = {"VE": VE(sigma_max=20.0), "Linear": Linear(), "Trigonometric": Trigonometric(), "VPLinear": VPLinear()}
    objectives: dict[str, Any] = {
        "uniform times": {"type": "Denoising", "times": "Uniform"},
        "log-normal": FAST.training.objective.replace(regression="Drawn"),
        "log-normal, stable target": FAST.training.objective,
        "log-normal, min-SNR": FAST.training.objective.replace(regression="Drawn", weight="MinSNR"),
    }
    cells = {
        (f"{prediction}, {words}", column): FAST.replace(
            **{"training.schedule": schedule, "training.prediction": prediction, "training.objective": objective}
        )
        for prediction in ours(Prediction)
        for words, objective in objectives.items()
        for column, schedule in schedules.items()
    }
    return Board(
        "objectives",
        "What to predict, under which schedule, weighted how? The preset `fast` (900 steps of 512), its axes changed.",
        cells,
        (Girsanov(), *METRICS),
        "EDM, log-normal, stable target",
        across="schedule",
    )


def few_steps() -> Board:
    """Distilled and few-step models, by evaluations."""
    base = FAST.replace(**{"training.network.hidden": (64,) * 5, "training.steps": 3000})
    flow = base.replace(
        **{
            "training.schedule": "Linear",
            "training.prediction": "Velocity",
            "training.objective": {"type": "Denoising", "times": "Uniform"},
            "sampler": "Jump",
        }
    )
    adam = {"training.optimizer": {"type": "AdamW", "lr": 2e-3}, "training.averaging": "EMA"}
    ot = {"type": "MinibatchOT", "rows": 128}
    jump, renoise = {"type": "Jump", "spacing": "UniformTime"}, {"type": "Renoise", "spacing": "UniformTime"}
    rows: dict[str, tuple[Experiment, Any]] = {
        "flow matching": (flow, jump),
        "flow matching, minibatch OT": (
            flow.replace(**{"training.objective.coupling": ot}),
            jump,
        ),
        "fast, DDIM": (FAST, {"type": "Jump", "spacing": "SinhLogSNR"}),
        "reflow": (
            flow.replace(**{"training.teacher": flow.training, "training.objective.coupling": "Pairs"}),
            jump,
        ),
        "shortcut": (flow.replace(**{"training.objective": "Shortcut"}), jump),
        "MeanFlow": (flow.replace(**{"training.objective": "MeanFlow"}, **adam), jump),
        "consistency training": (base.replace(**{"training.objective": "ConsistencyTraining"}, **adam), renoise),
        "consistency distillation": (
            base.replace(
                **{"training.objective": "ConsistencyDistillation", "training.teacher": FAST.training}, **adam
            ),
            renoise,
        ),
    }
    cells = {
        (row, str(k)): experiment.replace(sampler=sampler | {"steps": k})
        for row, (experiment, sampler) in rows.items()
        for k in FEW
    }
    teacher = FAST.training
    for k in (32, 16, 8, 4, 2, 1):
        steps = {"type": "Progressive", "steps": k, "spacing": "SinhLogSNR"}
        changes = {"training.objective": steps, "training.teacher": teacher, "training.steps": 1500}
        student = base.replace(**changes, sampler={"type": "Jump", "spacing": "SinhLogSNR", "steps": k})
        teacher = student.training
        if k in FEW:
            cells["progressive distillation", str(k)] = student
    ordered = {(row, str(k)): cells[row, str(k)] for row in dict.fromkeys(r for r, _ in cells) for k in FEW}
    question = "How good after 1, 2, 4, 8 evaluations? 3,000 steps of 512 each (progressive: 6 times 1,500)."
    return Board("few-steps", question, ordered, METRICS, "flow matching", across="evaluations")


def guidance() -> Board:
    """Classifier-free guidance against the law that it aims at."""
    target = TwoMoons(noise=0.2)
    objective = FAST.training.objective.replace(regression="Drawn")
    base = FAST.replace(
        **{"training.target": target, "training.label_dropout": 0.2, "training.objective": objective, "label": 0},
        **{"training.steps": 3000, "sampler": {"type": "Heun", "steps": 64}},
    )
    scales = (1.0, 1.5, 2.0, 4.0)
    rows: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "exact denoisers, flow": ({"exact": True}, {}),
        "exact denoisers, SDE": ({"exact": True, "sampler": {"type": "DDIM", "eta": 1.0, "steps": 200}}, {}),
        "exact denoisers, interval": ({"exact": True}, {"low": 0.1, "high": 1.0}),
        "learned, flow": ({}, {}),
        "learned, SDE": ({"sampler": {"type": "DDIM", "eta": 1.0, "steps": 200}}, {}),
        "learned, interval": ({}, {"low": 0.1, "high": 1.0}),
    }
    cells = {
        (row, f"{scale:g}"): base.replace(**changes, guidance={"type": "CFG", "scale": scale} | interval)
        for row, (changes, interval) in rows.items()
        for scale in scales
    }
    question = (
        "Does classifier-free guidance draw from p(x|c)^w p(x)^(1-w)? Two moons with noise 0.2, one label; each column "
        "has a law of its own."
    )
    return Board("guidance", question, cells, (N50(), SlicedW1Law()), "learned, flow", across="scale w")


def autoguidance() -> Board:
    """Guidance by a worse network, against the law of the label."""
    objective = FAST.training.objective.replace(regression="Drawn")
    base = FAST.replace(
        **{"training.target": "FractalTree", "training.label_dropout": 0.0, "training.objective": objective},
        **{"training.steps": 3000, "label": 0, "sampler": {"type": "Heun", "steps": 64}},
    )
    worse = base.training.replace(steps=500, network={"type": "MLP", "hidden": (32, 32, 32), "embedding": "Fourier"})
    cells = {("no guidance", "w"): base}
    for scale in (1.5, 2.0, 3.0):
        guided = {"type": "AutoGuidance", "scale": scale}
        cells[f"w = {scale:g}", "w"] = base.replace(guidance=guided, guide=worse)
    cells["exact denoiser", "w"] = base.replace(exact=True)
    question = "Is a network better for being led away from a worse one? A fractal of two classes, one label."
    return Board("autoguidance", question, cells, METRICS, "no guidance")


def published() -> Board:
    """Flow matching with and without minibatch OT, beside the 2-Wasserstein distances that others state."""
    base = Experiment(
        training=Training(
            schedule=Linear(),
            prediction=Velocity(),
            network=MLP(hidden=(64, 64, 64)),
            objective=Denoising(),
            optimizer=AdamW(weight_decay=1e-5),
            learning_rate=WarmupCosine(),
            points=10_000,
            steps=4000,
            clip=None,
        ),
        sampler=Euler(steps=100, spacing=UniformTime()),
        n=2000,
    )
    ot = base.replace(**{"training.objective.coupling": "MinibatchOT"})
    columns = {
        "N(0, I) → moons": {"training.target": "TwoMoons"},
        "N(0, I) → 8 Gaussians": {"training.target": "EightGaussians"},
        "8 Gaussians → moons": {"training.target": "TwoMoons", "training.prior": "EightGaussians"},
    }
    cells = {
        (row, column): experiment.replace(**changes)
        for row, experiment in {"I-CFM": base, "OT-CFM": ot}.items()
        for column, changes in columns.items()
    }
    stated = {
        ("I-CFM", "N(0, I) → moons"): ".178 ± .014",
        ("OT-CFM", "N(0, I) → moons"): ".130 ± .016",
        ("I-CFM", "N(0, I) → 8 Gaussians"): ".373 ± .103",
        ("OT-CFM", "N(0, I) → 8 Gaussians"): ".303 ± .043",
    }
    question = "Do flow matching and minibatch optimal transport give what [SF]²M (Tong et al. 2024, table 2) states?"
    return Board("published", question, cells, (W2(), N50()), "I-CFM", seeds=3, published=stated)


def densities() -> Board:
    """Models by their density, beside the likelihoods that others state."""
    target = TwoMoons(noise=0.1)
    spline = Experiment(
        training=Training(
            target=target,
            network=SplineFlow(),
            objective=MaximumLikelihood(),
            learning_rate=WarmupCosine(),
            optimizer=AdamW(),
            points=16_384,
            batch=64,
            steps=4096,
        ),
        sampler=Draw(),
    )
    flow = FAST.replace(
        **{"training.target": target, "training.schedule": "Linear", "training.prediction": "Velocity"},
        **{"training.objective": {"type": "Denoising", "times": "Uniform"}, "training.steps": 4000},
    )
    rows = {
        "spline flow, 3 transforms (zuko)": spline,
        "flow matching": flow,
        "fast": FAST.replace(**{"training.target": target}),
    }
    cells = {(row, "moons, noise 0.1"): experiment for row, experiment in rows.items()}
    stated = {
        ("spline flow, 3 transforms (zuko)", "moons, noise 0.1"): "1.0958 - 1.006 = .090",
        ("flow matching", "moons, noise 0.1"): "1.155 - 1.006 = .149",
    }
    question = "How far is a model's density from the law's, in nats? Stated values are likelihoods less the entropy."
    return Board("densities", question, cells, (KL(), N50()), "spline flow, 3 transforms (zuko)", published=stated)


BOARDS: Mapping[str, Callable[[], Board]] = {
    "samplers": samplers,
    "objectives": objectives,
    "few-steps": few_steps,
    "guidance": guidance,
    "autoguidance": autoguidance,
    "published": published,
    "densities": densities,
}
