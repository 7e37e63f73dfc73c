"""Boards: one question over many experiments, as a table of rows and columns with floors and verdicts.

A verdict is that of a paired test over seeds against the reference row of the same column, adjusted by Holm over all
cells of the board that are compared in a metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from moonbed.component import SpecError, members, nearest
from moonbed.diffusion import Exact, Prediction, Sampler
from moonbed.diffusion.counting import Counted
from moonbed.diffusion.samplers import Spacing
from moonbed.diffusion.schedules import VE, Linear, Trigonometric, VPLinear
from moonbed.experiments.compare import Verdict, paired_badness
from moonbed.experiments.presets import FAST
from moonbed.experiments.rows import DRAWS, Row, follow, rows
from moonbed.experiments.run import Failure, Progress, Result
from moonbed.experiments.spec import Experiment
from moonbed.experiments.store import Store
from moonbed.metrics import Metric
from moonbed.metrics.density import OffSupport
from moonbed.metrics.detection import N50
from moonbed.metrics.model import Girsanov
from moonbed.metrics.significance import equivalence_p, holm, paired_p, spread
from moonbed.metrics.transport import SlicedW1Law
from moonbed.rng import Rng
from moonbed.targets.mixtures import EightGaussians

__all__ = ["BOARDS", "Board", "Filled", "board", "fill"]

Place = tuple[str, str]
"""(row, column)."""


@dataclass(frozen=True)
class Board:
    """Experiments by row and column, and what is asked of them. `reference` is the row that others are held against.

    `published` are values that others state for a place, as text; `notes` say what a place lacks.
    """

    name: str
    question: str
    cells: Mapping[Place, Experiment]
    metrics: Sequence[Metric]
    reference: str
    across: str = ""
    seeds: int = 3
    published: Mapping[Place, str] = field(default_factory=dict)
    notes: Mapping[Place, str] = field(default_factory=dict)

    def only(self, rows: Sequence[str]) -> Board:
        """The board with some of its rows, and the reference. Raises `SpecError` for an unknown one."""
        for row in rows:
            if row not in self.rows:
                raise SpecError([("--rows", f"{self.name} has no row {row!r}; {nearest(row, self.rows)}")])
        kept = {place: e for place, e in self.cells.items() if place[0] in {*rows, self.reference}}
        return replace(self, cells=kept)

    @property
    def rows(self) -> list[str]:
        """Names of the rows, in order."""
        return list(dict.fromkeys(row for row, _ in self.cells))

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        return list(dict.fromkeys(column for _, column in self.cells))


@dataclass(frozen=True)
class Filled:
    """A board with its results; `verdicts` by place and metric id, where there is a reference to compare with."""

    board: Board
    seeds: int
    results: Mapping[Place, Row]
    verdicts: Mapping[tuple[Place, str], Verdict]


def fill(
    board: Board,
    *,
    seeds: int | None = None,
    draws: int = DRAWS,
    store: Store | str = "runs",
    device: str = "auto",
    jobs: int = 1,
) -> Iterator[tuple[str, Progress | Failure | Filled]]:
    """Yield (what it is about, event) while the cells are computed, then the `Filled` board."""
    count, where = board.seeds if seeds is None else seeds, Store.at(store)
    if count < 1:
        raise SpecError([("--seeds", f"should be at least 1, given {count}")])
    names = {" · ".join(place): place for place in board.cells}
    wanted = {name: [board.cells[place].shifted(k) for k in range(count)] for name, place in names.items()}
    results: dict[str, Result] = {}
    for about, event in follow(wanted, board.metrics, draws, where, device, jobs):
        if isinstance(event, Result):
            results[event.experiment.id] = event
        else:
            yield about, event
    found = {name: [results[e.id] for e in group if e.id in results] for name, group in wanted.items()}
    table = rows({name: group for name, group in found.items() if len(group) == count}, board.metrics, where, {})
    placed = {names[row.name]: row for row in table}
    yield "board", Filled(board, count, placed, _verdicts(board, placed, count))


def _verdicts(board: Board, placed: Mapping[Place, Row], seeds: int) -> dict[tuple[Place, str], Verdict]:
    out: dict[tuple[Place, str], Verdict] = {}
    if seeds < 2:
        return out
    for metric in board.metrics:
        differences = {}
        for (row, column), found in placed.items():
            reference = placed.get((board.reference, column))
            if reference is not None and row != board.reference:
                differences[row, column] = paired_badness(reference, found, metric)
        p = dict(zip(differences, holm([paired_p(d) for d in differences.values()]), strict=True))
        for place, d in differences.items():
            verdict: Verdict = "cannot tell yet"
            if p[place] < 0.05:
                verdict = "worse" if spread(d).mean > 0 else "better"
            elif equivalence_p(d, 1.0) < 0.05:
                verdict = "equivalent"
            out[place, metric.id] = verdict
    return out


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


def samplers() -> Board:
    """Every native sampler on one trained network, by evaluations."""
    rows: dict[str, Any] = {name: {"type": name} for name in members(Sampler) if name not in _OTHER}
    rows |= {
        f"{name} {spacing}": {"type": name, "spacing": spacing}
        for name in ("DDIM", "DPMSolver2M", "UniPC")
        for spacing in members(Spacing)
        if spacing != "UniformLogSNR"
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

    def cost(steps: int) -> int:
        counted = Counted(Exact(law, schedule))
        noise = Rng(0).stream("cost").normal((2, 2))
        try:
            for _ in sampler.replace(steps=steps).trajectory(counted, noise, Rng(0).stream("sampler")):
                pass
        except ValueError:
            return budget + 1
        return counted.evaluations

    fits = [steps for steps in range(1, budget + 1) if cost(steps) <= budget]
    return sampler.replace(steps=fits[-1]) if fits else None


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
        for prediction in members(Prediction)
        for words, objective in objectives.items()
        for column, schedule in schedules.items()
    }
    return Board(
        "objectives",
        "What to predict, under which schedule, weighted how? The preset `fast`, 900 steps of 512, with one axis changed.",
        cells,
        (Girsanov(), *METRICS),
        "EDM, log-normal, stable target",
        across="schedule",
    )


BOARDS: Mapping[str, Callable[[], Board]] = {"samplers": samplers, "objectives": objectives}
