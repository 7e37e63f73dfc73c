"""From a trained network to samples, from samples to numbers, and from exact samples to the floor of those numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.component import digest
from moonbed.diffusion import Learned
from moonbed.experiments.spec import Experiment
from moonbed.experiments.store import Folder, Store
from moonbed.metrics import Evaluation, Metric
from moonbed.rng import Rng
from moonbed.targets import Target

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

EXPLODED = 10.0
"""A sample counts as exploded if it is not finite or farther out than this many times the farthest reference point."""


def generate(experiment: Experiment, weights: dict[str, Tensor], device: str) -> Iterator[Tensor]:
    """Yield the state (n, dim) after each sampling step; the last one is the sample."""
    training = experiment.training
    network = training.build()
    network.load_state_dict(weights)
    denoiser = Learned(network.to(device).eval(), training.prediction, training.schedule)
    rng = experiment.rng
    noise = rng.stream("noise").normal((experiment.n, training.target.dim)).to(device)
    steps = experiment.sampler.trajectory(denoiser, noise, rng.stream("sampler"))
    while True:
        with torch.inference_mode():  # only while the sampler works, not while the caller does
            x = next(steps, None)
        if x is None:
            return
        yield x


def reference(experiment: Experiment) -> Any:
    """(n, dim) float64 array: the points of the target that the samples are held against."""
    return experiment.training.target.dataset(experiment.n, experiment.rng.stream("reference")).numpy()


def trained_on(experiment: Experiment) -> Any:
    """(k, dim) float64 array: the points that the model was trained on."""
    training = experiment.training
    return training.target.dataset(training.points, training.rng.stream("data")).numpy()


def exploded(samples: Any, points: Any) -> int:
    """How many samples are not finite or lie far outside of all reference points."""
    with np.errstate(over="ignore", invalid="ignore"):
        norm = np.sqrt((np.asarray(samples, dtype=np.float64) ** 2).sum(1))
    return int((~(norm <= EXPLODED * np.sqrt((points**2).sum(1)).max())).sum())


def evaluate(experiment: Experiment, folder: Folder, metrics: Sequence[Metric]) -> Iterator[tuple[Metric, float]]:
    """Yield each metric with its value on the stored samples; values that the store holds are not computed again."""
    import io

    evaluation: Evaluation | None = None
    for metric in metrics:
        name = f"metrics/{metric.id}.json"
        stored = folder.read_json(name)
        if stored is None:
            if evaluation is None:
                samples = np.load(io.BytesIO(folder.file("samples.npy")), allow_pickle=False)
                rng, target = experiment.rng.child("metrics"), experiment.training.target
                evaluation = Evaluation(samples, reference(experiment), rng, law=target, train=trained_on(experiment))
            value = float(metric(evaluation))
            folder.write_json(name, {"metric": metric.spec(), "n": experiment.n, "value": value})
        else:
            value = float(stored["value"])
        yield metric, value


def floor_name(target: Target, metric: Metric, n: int) -> str:
    """File name of the null draws of a metric, by target, metric and n."""
    return f"{digest([target.spec(), metric.spec(), n])}.json"


def load_floor(store: Store, target: Target, metric: Metric, n: int) -> list[float]:
    """The null draws that the store holds, in order of their number."""
    stored = store.floors().read_json(floor_name(target, metric, n))
    return [float(value) for value in stored["draws"]] if stored else []


def save_floor(store: Store, target: Target, metric: Metric, n: int, draws: Sequence[float]) -> None:
    """Keep null draws 0, 1, 2, ... of a metric."""
    data = {"target": target.spec(), "metric": metric.spec(), "n": n, "draws": list(draws)}
    store.floors().write_json(floor_name(target, metric, n), data)


def null_draw(target: Target, metrics: Sequence[Metric], n: int, number: int) -> list[float]:
    """Values of the metrics on n exact samples of the target, held against its data set; draw `number` of many."""
    rng = Rng(0).child("floor", target.id, n, number)
    samples = target.sample(n, rng.stream("samples"))
    reference, train = (target.dataset(n, rng.stream(name)).numpy() for name in ("reference", "train"))
    evaluation = Evaluation(samples.numpy(), reference, rng.child("metrics"), law=target, train=train)
    return [float(metric(evaluation)) for metric in metrics]
