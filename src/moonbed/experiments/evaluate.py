"""From a trained network to samples, and from samples to numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.component import SpecError
from moonbed.diffusion import Denoiser, Exact
from moonbed.diffusion.denoisers import Law, Rescheduled
from moonbed.diffusion.density import Density
from moonbed.diffusion.guidance import CFG
from moonbed.diffusion.likelihood import Flow
from moonbed.diffusion.schedules import VE
from moonbed.experiments.spec import Experiment, Training
from moonbed.experiments.storage.folder import Folder, StoreError, suiting
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


Weights = Mapping[str, "Tensor"]


def network_of(training: Training, weights: Weights, device: str = "cpu") -> Denoiser:
    """The trained network of a training as a denoiser, ready to sample. Raises `StoreError` for weights of another."""
    network = training.build()
    with suiting(f"{training.id}: weights.safetensors"):
        network.load_state_dict(weights)
    return training.denoiser(network.to(device).eval())


def denoiser_of(experiment: Experiment, weights: Weights, device: str, guide: Weights | None = None) -> Denoiser:
    """What an experiment samples with, from the weights of its training and of its guide, if it has one."""
    plain = network_of(experiment.training, weights, device)
    worse = network_of(experiment.guide, guide, device) if experiment.guide and guide is not None else None
    return assembled(experiment, plain, worse)


def assembled(experiment: Experiment, plain: Denoiser, worse: Denoiser | None = None) -> Denoiser:
    """What an experiment samples with, from the denoiser of its training and that of its guide, if it has one."""
    found = plain.given(experiment.label)
    if experiment.guidance is not None:
        weak = plain if worse is None else Rescheduled(worse, plain.schedule).given(experiment.label)
        found = experiment.guidance(found, weak)
    return found if experiment.schedule is None else Rescheduled(found, experiment.schedule)


def exact_of(experiment: Experiment) -> Denoiser:
    """The exact denoiser in the place of the network. Raises `SpecError` where there is none."""
    experiment.replace(exact=True)
    target, label = experiment.training.target, experiment.label
    return exactly(experiment, target, None if label is None else target.given(label))


def exactly(experiment: Experiment, law: Law, given: Law | None) -> Denoiser:
    """The exact denoiser of the data, or of those with the label, guided as far as that has an exact denoiser."""
    schedule = experiment.schedule or experiment.training.schedule
    plain = Exact(law, schedule)
    if given is None:
        return plain
    exact = Exact(given, schedule)
    return experiment.guidance(exact, plain) if isinstance(experiment.guidance, CFG) else exact


def generate(
    experiment: Experiment, denoiser: Denoiser, device: str, rng: Rng | None = None, n: int | None = None
) -> Iterator[Tensor]:
    """Yield the state (n, dim) after each sampling step; the last one is the sample.

    Noise comes from the experiment's own streams, or from `rng`.
    """
    rng, training = rng or experiment.rng, experiment.training
    shape, stream = (n or experiment.n, training.target.dim), rng.stream("noise")
    noise = stream.normal(shape) if training.prior is None else training.prior.sample(shape[0], stream).float()
    noise = noise.to(device)
    steps = experiment.sampler.trajectory(denoiser, noise, rng.stream("sampler"))
    while True:
        with torch.no_grad():  # no inference mode: what a target keeps from here on is asked for gradients elsewhere
            x = next(steps, None)
        if x is None:
            return
        yield x


class _Behind:
    """What metrics may ask of a denoiser and whoever samples with it: a `moonbed.metrics.Model`."""

    def __init__(
        self, denoiser: Denoiser, sample: Callable[[int, int], Tensor], has_score: bool, has_density: bool
    ) -> None:
        flow = Flow(denoiser)
        self.sigma_min, self.sigma_max = flow.sigma_min, flow.sigma_max
        self.denoise, self.sample = flow.denoise, sample
        self.log_prob: Callable[[Tensor], Tensor] = flow.log_prob
        self.has_score, self.has_density = has_score, has_density
        if isinstance(denoiser, Density):
            self.sigma_min, self.log_prob = 0.0, denoiser.log_prob


def model_of(experiment: Experiment, denoiser: Denoiser, device: str) -> Model:
    """The denoiser with the experiment's sampler, as metrics may ask it."""

    def sample(n: int, number: int) -> Tensor:
        *_, x = generate(experiment, denoiser, device, experiment.rng.child("more", number), n)
        return x.double().cpu()

    return _Behind(denoiser, sample, experiment.has_score, experiment.has_density)


def reference(experiment: Experiment) -> Any:
    """(n, dim) float64 array: the points of the law that the samples are held against."""
    return experiment.law.dataset(experiment.n, experiment.rng.stream("reference")).numpy()


def trained_on(experiment: Experiment) -> Any:
    """(k, dim) float64 array: the points that the model was trained on, those of the experiment's label if any."""
    training = experiment.training
    if experiment.label is None:
        return training.target.dataset(training.points, training.rng.stream("data")).numpy()
    points, labels = training.target.sample_labelled(training.points, training.rng.stream("data"))
    return points[labels == experiment.label].numpy()


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
    return _lacking(target, metrics, model, train, True, True)


def askable_of(experiment: Experiment, metrics: Sequence[Metric]) -> dict[str, str]:
    """Id -> what it lacks, of the metrics that cannot be asked of an experiment."""
    return _lacking(experiment.law, metrics, True, True, experiment.has_score, experiment.has_density)


def _lacking(
    target: Target, metrics: Sequence[Metric], model: bool, train: bool, has_score: bool, has_density: bool
) -> dict[str, str]:
    if not metrics:
        return {}
    stream = Rng(0).stream("askable")
    points = target.sample(2, stream).numpy()
    exact = Exact(target, VE())
    behind = _Behind(exact, lambda n, number: target.sample(n, stream), has_score, has_density) if model else None
    evaluation = Evaluation(points, points, Rng(0), law=target, train=points if train else None, model=behind)
    return {m.id: f"needs {' and '.join(lack)}" for m in metrics if (lack := m.missing(evaluation))}


def evaluate(
    experiment: Experiment,
    folder: Folder,
    metrics: Sequence[Metric],
    denoiser: Callable[[], Denoiser],
    device: str = "cpu",
    doubt: bool = True,
) -> Iterator[tuple[Metric, Answer]]:
    """Yield each metric with its answer on the stored samples; what the store holds is not computed again.

    `denoiser` loads what the experiment samples with, for metrics that ask it.
    """
    evaluation: Evaluation | None = None
    for metric in metrics:
        stored = folder.read_json(answer_name(metric))
        if stored is not None and ("interval" in stored or not doubt):
            yield metric, read_answer(stored)
            continue
        if evaluation is None:
            evaluation = _evaluation(experiment, folder, denoiser(), device)
        found = answer(metric, evaluation, doubt)
        data = {"metric": metric.spec(), "n": experiment.n, "value": found.value, "details": found.details}
        folder.write_json(answer_name(metric), data | ({"interval": found.interval} if doubt else {}))
        yield metric, found


def answer_name(metric: Metric) -> str:
    """File of a metric's answer, below the folder of an experiment."""
    return f"metrics/{metric.id}.json"


def read_answer(stored: Mapping[str, Any]) -> Answer:
    """The answer that such a file holds."""
    ends = stored.get("interval")
    interval = (float(ends[0]), float(ends[1])) if ends else None
    return Answer(float(stored["value"]), interval, stored.get("details", {}))


def stored_samples(folder: Folder, experiment: Experiment) -> np.ndarray:
    """(n, dim) array: the samples in the folder of an experiment. Raises `StoreError` for anything else."""
    import io

    try:
        found = np.lib.format.read_array(io.BytesIO(folder.file("samples.npy")), allow_pickle=False)
    except StoreError:
        raise
    except Exception as error:  # whatever a broken header may raise
        raise StoreError(f"{folder.path / 'samples.npy'} is no table of samples: {error}") from None
    try:
        columns = experiment.training.target.dim
    except SpecError:  # data that are elsewhere
        columns = found.shape[-1] if found.ndim else 0
    if found.dtype.kind != "f" or found.shape != (experiment.n, columns):
        shape = (experiment.n, columns)
        raise StoreError(f"{folder.path / 'samples.npy'} should be {shape}, is {found.shape} of type {found.dtype}")
    return found


def _evaluation(experiment: Experiment, folder: Folder, denoiser: Denoiser, device: str) -> Evaluation:
    samples = stored_samples(folder, experiment)
    model = model_of(experiment, denoiser, device)
    rng, law, points = experiment.rng.child("metrics"), experiment.law, reference(experiment)
    return Evaluation(samples, points, rng, law=law, train=trained_on(experiment), model=model)
