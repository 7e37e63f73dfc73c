"""One training under several samplers: which stored runs make up such a sweep, and what a sample costs in each.

The cost is the number of function evaluations (NFE): how often the network is asked for one sample. It is counted and
not computed: the sampler itself is run on a denoiser that counts, for two points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.component import SpecError, digest
from moonbed.diffusion import Denoiser, Schedule
from moonbed.diffusion.counting import Counted
from moonbed.experiments.evaluate import exact_of, generate
from moonbed.experiments.spec import Experiment
from moonbed.experiments.storage.folder import StoreError
from moonbed.experiments.storage.runs import load_spec
from moonbed.experiments.storage.store import Store

if TYPE_CHECKING:
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["evaluations", "sampler_name", "siblings"]

POINTS = 2


class _Still(Denoiser):
    """A denoiser that says 0 whatever it is asked: what it costs to sample with it is what it costs with any."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def given(self, label: int | None) -> Denoiser:
        return self

    def combine(self, x_t: Tensor, t: Tensor, w_x: Tensor | float, w_d: Tensor | float) -> Tensor:
        return 0.0 * x_t


def evaluations(experiment: Experiment) -> int:
    """Evaluations of the network for one sample; of a sampler that chooses its steps, on the exact denoiser."""
    if experiment.training.objective.density:
        return 1
    schedule = experiment.schedule or experiment.training.schedule
    if experiment.sampler.adaptive:
        try:
            counters = [Counted(exact_of(experiment))]
        except SpecError:
            counters = [Counted(_Still(schedule))]
        found: Denoiser = counters[0]
    else:
        counters = [Counted(_Still(schedule)) for _ in range(2)]
        found = experiment.guidance(*counters) if experiment.guidance else counters[0]
    for _ in generate(experiment, found, "cpu", n=POINTS):
        pass
    return sum(counter.evaluations for counter in counters)


def siblings(store: Store, experiments: Sequence[Experiment]) -> list[list[Experiment]]:
    """Stored runs of the trainings of some experiments that differ from these in the sampler alone, a list a sweep.

    Seeds of one sweep are in one list; a sweep of one sampler is none.
    """
    out: dict[str, dict[str, Experiment]] = {}
    asked = {(e.training.id, _beside(e)) for e in experiments}
    for training in dict.fromkeys(e.training.id for e in experiments):
        for name in store.folder(training).names("*/record.json"):
            try:
                found = Experiment.parse(load_spec(store.folder(training, name.split("/")[0]), Experiment))
            except StoreError:  # of a file that is not loaded
                continue
            if (training, _beside(found)) in asked:
                out.setdefault(_beside(found), {})[found.id] = found
    sweeps = [list(group.values()) for group in out.values()]
    return [group for group in sweeps if len({e.sampler.id for e in group}) > 1]


def _beside(experiment: Experiment) -> str:
    """All of an experiment but its sampler and the seeds of its trainings."""
    from moonbed.experiments.stored import seedless

    return digest([seedless(experiment.replace(sampler=type(experiment)().sampler.spec()))])


def sampler_name(experiment: Experiment) -> str:
    """A sampler without its steps: its name, or what it stands for, and the fields that are not the usual ones."""
    spec, usual = experiment.sampler.spec(), type(experiment.sampler)().spec()
    name = spec.get("scheduler") or spec["type"]
    unlike = [f"{k}={_short(v)}" for k, v in spec.items() if k not in ("type", "steps", "scheduler") and v != usual[k]]
    return " ".join([name, *unlike])


def _short(value: object) -> str:
    return str(value["type"]) if isinstance(value, dict) else str(value)
