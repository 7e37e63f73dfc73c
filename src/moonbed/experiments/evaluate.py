"""From a trained network to samples, and from samples to numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.diffusion import Denoiser, Exact, Learned
from moonbed.diffusion.likelihood import Flow
from moonbed.diffusion.schedules import Cosine
from moonbed.experiments.spec import Experiment
from moonbed.experiments.store import Folder
from moonbed.metrics import Evaluation, Metric
from moonbed.metrics.base import Model
from moonbed.metrics.density import Exploded
from moonbed.rng import Rng
from moonbed.targets import Target

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")


def denoiser_of(experiment: Experiment, weights: Mapping[str, Tensor], device: str) -> Learned:
    """The trained network of an experiment as a denoiser, ready to sample."""
    training = experiment.training
    network = training.build()
    network.load_state_dict(weights)
    return Learned(network.to(device).eval(), training.prediction, training.schedule)


def generate(
    experiment: Experiment, denoiser: Denoiser, device: str, rng: Rng | None = None, n: int | None = None
) -> Iterator[Tensor]:
    """Yield the state (n, dim) after each sampling step; the last one is the sample.

    Noise comes from the experiment's own streams, or from `rng`.
    """
    rng = rng or experiment.rng
    noise = rng.stream("noise").normal((n or experiment.n, experiment.training.target.dim)).to(device)
    steps = experiment.sampler.trajectory(denoiser, noise, rng.stream("sampler"))
    while True:
        with torch.no_grad():  # no inference mode: what a target keeps from here on is asked for gradients elsewhere
            x = next(steps, None)
        if x is None:
            return
        yield x


class _Behind:
    """What metrics may ask of a denoiser and whoever samples with it: a `moonbed.metrics.Model`."""

    def __init__(self, denoiser: Denoiser, sample: Callable[[int, int], Tensor]) -> None:
        flow = Flow(denoiser)
        self.sigma_min, self.sigma_max = flow.sigma_min, flow.sigma_max
        self.denoise, self.log_prob, self.sample = flow.denoise, flow.log_prob, sample


def model_of(experiment: Experiment, denoiser: Denoiser, device: str) -> Model:
    """The denoiser with the experiment's sampler, as metrics may ask it."""

    def sample(n: int, number: int) -> Tensor:
        *_, x = generate(experiment, denoiser, device, experiment.rng.child("more", number), n)
        return x.double().cpu()

    return _Behind(denoiser, sample)


def reference(experiment: Experiment) -> Any:
    """(n, dim) float64 array: the points of the target that the samples are held against."""
    return experiment.training.target.dataset(experiment.n, experiment.rng.stream("reference")).numpy()


def trained_on(experiment: Experiment) -> Any:
    """(k, dim) float64 array: the points that the model was trained on."""
    training = experiment.training
    return training.target.dataset(training.points, training.rng.stream("data")).numpy()


def exploded(samples: Any, points: Any) -> int:
    """How many samples are not finite or lie far outside of all reference points: `Exploded`, as a number."""
    return int(Exploded().terms(Evaluation(samples, points, Rng(0))).sum())


@dataclass(frozen=True)
class Answer:
    """What came of a metric: value, 95 % interval over evaluation draws where it was asked for, and more in words."""

    value: float
    interval: tuple[float, float] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def answer(metric: Metric, evaluation: Evaluation, doubt: bool) -> Answer:
    """Ask a metric; with `doubt` also for its interval."""
    value = float(metric(evaluation))
    interval = metric.interval(evaluation, value) if doubt else None
    return Answer(value, interval, metric.details(evaluation))


def askable(target: Target, metrics: Sequence[Metric], model: bool = True, train: bool = True) -> dict[str, str]:
    """Id -> what it lacks, of the metrics that cannot be asked of samples of this target."""
    stream = Rng(0).stream("askable")
    points = target.sample(2, stream).numpy()
    behind = _Behind(Exact(target, Cosine()), lambda n, number: target.sample(n, stream)) if model else None
    evaluation = Evaluation(points, points, Rng(0), law=target, train=points if train else None, model=behind)
    return {m.id: f"needs {' and '.join(lack)}" for m in metrics if (lack := m.missing(evaluation))}


def evaluate(
    experiment: Experiment,
    folder: Folder,
    metrics: Sequence[Metric],
    weights: Callable[[], Mapping[str, Tensor]],
    device: str = "cpu",
    doubt: bool = True,
) -> Iterator[tuple[Metric, Answer]]:
    """Yield each metric with its answer on the stored samples; what the store holds is not computed again.

    `weights` loads those of the trained network, for metrics that ask it.
    """
    evaluation: Evaluation | None = None
    for metric in metrics:
        name = f"metrics/{metric.id}.json"
        stored = folder.read_json(name)
        if stored is not None and ("interval" in stored or not doubt):
            ends = stored.get("interval")
            interval = (float(ends[0]), float(ends[1])) if ends else None
            yield metric, Answer(float(stored["value"]), interval, stored.get("details", {}))
            continue
        if evaluation is None:
            evaluation = _evaluation(experiment, folder, weights, device)
        found = answer(metric, evaluation, doubt)
        data = {"metric": metric.spec(), "n": experiment.n, "value": found.value, "details": found.details}
        folder.write_json(name, data | ({"interval": found.interval} if doubt else {}))
        yield metric, found


def _evaluation(
    experiment: Experiment, folder: Folder, weights: Callable[[], Mapping[str, Tensor]], device: str
) -> Evaluation:
    import io

    samples = np.load(io.BytesIO(folder.file("samples.npy")), allow_pickle=False)
    model = model_of(experiment, denoiser_of(experiment, weights(), device), device)
    rng, law = experiment.rng.child("metrics"), experiment.training.target
    return Evaluation(samples, reference(experiment), rng, law=law, train=trained_on(experiment), model=model)
