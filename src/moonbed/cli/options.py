"""The options that several commands share, each written once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from moonbed.component import SpecError

if TYPE_CHECKING:
    from moonbed.experiments.engines import Engine

StoreOption = Annotated[
    str,
    Parameter(
        help="Folder of the runs, or a URL (s3://bucket/runs); the environment variable MOONBED_STORE names another."
    ),
]
QuietOption = Annotated[bool, Parameter(negative="", help="No progress on standard error.")]
CsvOption = Annotated[Path | None, Parameter(name="--csv", help="Write the table as CSV to this file as well.")]
TrackOption = Annotated[
    str | None,
    Parameter(help="Who hears of the runs: TensorBoard, WandB, MLflow; names or JSON, with commas."),
]
DrawsOption = Annotated[int, Parameter(help="Exact draws for the floor of each metric.")]
MetricsOption = Annotated[str, Parameter(help="Suites or metrics, by name or as JSON, with commas between them.")]
BudgetOption = Annotated[str | None, Parameter(help="quick or paper; the configuration's own numbers unless said.")]
JsonOption = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON on standard output.")]


STORE = os.environ.get("MOONBED_STORE", "runs")


@Parameter(name="*")
@dataclass(frozen=True)
class EngineOptions:
    """Where the work is done. Results do not depend on it."""

    jobs: Annotated[
        int | None, Parameter(help="Tasks at once; one a core unless said, or as many as a cluster has room for.")
    ] = None
    engine: Annotated[str, Parameter(help="local: processes of this machine; ray; slurm. By name or as JSON.")] = (
        "local"
    )
    address: Annotated[
        str | None, Parameter(help="A running Ray: auto, or host:port; one of its own on this machine unless said.")
    ] = None
    cpus: Annotated[float | None, Parameter(help="Cores a task, on a cluster.")] = None
    gpus: Annotated[float | None, Parameter(help="GPUs a task, on a cluster; under Ray also a part of one.")] = None

    def make(self) -> Engine:
        """The engine. Raises `SpecError` for an unknown name, and for an option that the engine does not have."""
        from moonbed.experiments.engines import cores, engine_of

        if self.jobs is not None and self.jobs < 1:
            raise SpecError([("--jobs", f"should be at least 1, given {self.jobs}")])
        here = self.engine.lower() == "local" and self.jobs is None
        given = {"address": self.address, "cpus": self.cpus, "gpus": self.gpus}
        try:
            return engine_of(self.engine, cores() if here else self.jobs, **given)
        except SpecError as error:
            raise SpecError([(f"--{place}" if place else "--engine", why) for place, why in error.problems]) from None


LOCAL = EngineOptions()


@Parameter(name="*")
@dataclass(frozen=True)
class WorkOptions:
    """Where the work is done, where results are kept, and what is printed: the same for whatever trains or samples."""

    engine: EngineOptions = LOCAL
    device: Annotated[str, Parameter(help="cpu, cuda, mps, or auto for the fastest of them here.")] = "auto"
    store: StoreOption = STORE
    json: JsonOption = False
    quiet: QuietOption = False

    @property
    def silent(self) -> bool:
        """Whether nothing but results is printed on standard output."""
        return self.json or self.quiet

    def place(self) -> dict[str, Any]:
        """The store, the device and the engine, as whatever computes is given them. `SpecError` where one cannot be."""
        from moonbed.experiments.storage.store import Store

        return {"store": Store(self.store), "device": self.device, "engine": self.engine.make()}


WORK = WorkOptions()
