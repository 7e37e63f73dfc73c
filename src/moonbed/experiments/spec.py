"""What is trained and what is sampled: two configurations with two ids.

Ten samplers on one network share one `Training.id`, so the network is trained once. Metrics are no part of either:
they are questions asked of samples that exist, and asking another one computes nothing anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from moonbed.component import Component, Fraction, NonNegativeInt, Positive, PositiveFloat, SpecError
from moonbed.diffusion import Objective, Prediction, Sampler, Schedule
from moonbed.diffusion.density import Draw
from moonbed.diffusion.diffusers_bridge import Diffusers, DiffusersBetas
from moonbed.diffusion.guidance import CFG, Guidance
from moonbed.diffusion.objectives import Denoising, Progressive
from moonbed.diffusion.predictions import Epsilon
from moonbed.diffusion.times import Discrete
from moonbed.experiments.averaging import Averaging, PowerEMA, Width
from moonbed.experiments.optimizers import AdamW, Constant, LearningRate, Optimizer
from moonbed.networks import Network
from moonbed.networks.mlp import MLP
from moonbed.rng import Rng
from moonbed.targets import Target
from moonbed.targets.curves import TwoMoons

if TYPE_CHECKING:
    from torch import nn

    from moonbed.diffusion import Denoiser

__all__ = ["Averaging", "Experiment", "Optimizer", "Training"]


class Training(Component):
    """Everything that the weights of a network depend on."""

    target: Target = TwoMoons()
    schedule: Schedule = DiffusersBetas()
    prediction: Prediction = Epsilon()
    network: Network = MLP()
    objective: Objective = Denoising(times=Discrete())
    optimizer: Optimizer = AdamW()
    learning_rate: LearningRate = Constant()
    averaging: Averaging | None = None
    steps: Positive = 40_000
    batch: Positive = 512
    points: Positive = 50_000
    """Size of the training set, drawn once; batches go through it without replacement, the last partial one dropped."""
    clip: PositiveFloat | None = 1.0
    """Largest norm of the gradient; None for no limit."""
    label_dropout: Fraction | None = None
    """Share of rows whose label the network is not told; None for a network that is told no labels."""
    prior: Target | None = None
    """The law of the noise, in standardised coordinates; None for N(0, I). With another one there is no score."""
    teacher: Training | None = None
    """The trained model that an objective distils."""
    seed: NonNegativeInt = 0

    def check(self) -> Iterator[tuple[str, str]]:
        if self.batch > self.points:
            yield "batch", f"should be at most points ({self.points}), given {self.batch}"
        if self.network.density != self.objective.density:
            network, objective = type(self.network).__name__, type(self.objective).__name__
            needs = "is a density: its objective is MaximumLikelihood" if self.network.density else "is no density"
            yield "network", f"{network} {needs}, given the objective {objective}"
        yield from self.objective.problems(self.prediction, self.teacher is not None)
        yield from self._check_laws()

    def _check_laws(self) -> Iterator[tuple[str, str]]:
        try:
            dim, classes = self.target.dim, self.target.classes
            prior = None if self.prior is None else self.prior.dim
            teacher = None if self.teacher is None else self.teacher.target.dim
        except SpecError:  # data that are elsewhere: said where they are used
            return
        regression = getattr(self.objective, "regression", None)
        regressed = "" if regression is None or regression.drawn else type(regression).__name__
        name = type(self.target).__name__
        if self.prior is not None:
            if self.objective.density:
                yield "prior", "a density starts at normal noise"
            if prior != dim:
                yield "prior", f"should have {dim} dimensions as {name} has, given {prior}"
            if regressed:
                yield "prior", f"{regressed} knows the law of x_0 given x_t for normal noise only"
        if self.label_dropout is not None:
            if classes < 2:
                yield "label_dropout", f"{name} has no labels"
            elif type(self.target).dataset is not Target.dataset:
                yield "label_dropout", f"the data set of {name} comes without labels"
            if regressed:
                yield "label_dropout", f"{regressed} does not know the law of x_0 given x_t and the label"
            if self.teacher is not None:
                yield "label_dropout", "a teacher is followed without labels"
            if self.objective.density:
                yield "label_dropout", "a density is told no labels"
        if teacher not in (None, dim):
            yield "teacher", f"should have {dim} dimensions, given {teacher}"
        for problem in self._check_teacher():
            yield "teacher", problem

    def _check_teacher(self) -> Iterator[str]:
        if self.teacher is None:
            return
        if self.teacher.objective.density:
            yield "should be a denoiser, given a density"
        elif not (self.teacher.objective.posterior or isinstance(self.objective, Progressive)):
            given = type(self.teacher.objective).__name__
            yield f"should estimate E[x_0 | x_t], so that it has a flow to follow, given the objective {given}"
        if self.teacher.schedule != self.schedule:
            yield "should have the schedule of the training: its steps are followed there"
        if self.teacher.prior != self.prior:
            yield "should have the prior of the training: its flow starts there"
        if self.teacher.label_dropout == 0:
            yield "is followed without labels, so it should be trained without them too, as with label_dropout=0.1"

    @property
    def rng(self) -> Rng:
        """The random streams of this training."""
        return Rng(self.seed).child("training")

    def shifted(self, by: int) -> Training:
        """The training with its seed, and those of its teachers, moved by a number."""
        teacher = self.teacher.shifted(by) if self.teacher else None
        return self.replace(seed=self.seed + by, teacher=teacher)

    @property
    def classes(self) -> int:
        """Number of labels that the network is told."""
        return 0 if self.label_dropout is None else self.target.classes

    @property
    def gaussian(self) -> bool:
        """Whether noise is normal and independent of the data, so that the model has a score."""
        return self.prior is None and self.objective.gaussian

    def build(self) -> nn.Module:
        """The network with its initial weights."""
        dim, columns, head = self.target.dim, self.classes + self.objective.columns, self.objective.head
        with self.rng.stream("init").as_global():
            network = self.network.build(dim + columns)
            if not (columns or head):
                return network
            from moonbed.networks._modules import Conditioned

            return Conditioned(network, dim, head)

    def denoiser(self, network: nn.Module) -> Denoiser:
        """What the network, trained, is used as."""
        found = self.objective.denoiser(network, self.prediction, self.schedule, self.classes)
        found.gaussian, found.posterior = self.gaussian, self.objective.posterior
        return found

    def parameters(self) -> int:
        """Number of trainable parameters of the network."""
        return sum(p.numel() for p in self.build().parameters() if p.requires_grad)


class Experiment(Component):
    """A training, and samples from what it learned."""

    training: Training = Training()
    sampler: Sampler = Diffusers()
    n: Positive = 5_000
    """Number of samples, and of the reference points that they are held against."""
    seed: NonNegativeInt = 0
    """Seed of sampling and evaluation, on top of the training's."""
    schedule: Schedule | None = None
    """The schedule to sample under; None for that of the training."""
    label: NonNegativeInt | None = None
    """The label to sample; None for all points, without the network being told one."""
    guidance: Guidance | None = None
    guide: Training | None = None
    """The worse network of `AutoGuidance`."""
    exact: bool = False
    """Whether the exact denoiser takes the place of the network, which then is not trained."""
    sigma_rel: Width | None = None
    """Relative width of the average of the weights, reconstructed post hoc; None for that of the training."""

    def check(self) -> Iterator[tuple[str, str]]:
        if self.n < 10:
            yield "n", f"should be at least 10, given {self.n}"
        training, name = self.training, type(self.sampler).__name__
        if training.objective.density != isinstance(self.sampler, Draw):
            yield "sampler", f"a density is sampled by Draw, and nothing else is, given {name}"
        elif self.sampler.needs_score and not training.gaussian:
            yield "sampler", f"{name} needs a score, which there is for independent normal noise only"
        if training.objective.density and (self.schedule or self.guidance):
            yield "schedule", "a density has neither a schedule nor guidance"
        if self.sigma_rel is not None and not isinstance(training.averaging, PowerEMA):
            yield "sigma_rel", "needs the averaging PowerEMA, whose averages it is reconstructed from"
        if self.exact and (not self.has_score or self.guide is not None):
            why = "nothing says how bad a guide is" if self.guide else "that takes independent normal noise"
            yield "exact", f"there is no exact denoiser: {why}"
        yield from self._check_label()

    def _check_label(self) -> Iterator[tuple[str, str]]:
        training, guidance = self.training, self.guidance
        try:
            classes, dim = training.classes, training.target.dim
            guided = None if self.guide is None else (self.guide.classes, self.guide.target.dim)
        except SpecError:
            return
        classes = training.target.classes if self.exact else classes
        if self.label is not None and self.label not in range(classes):
            has = f"the labels 0 to {classes - 1}" if classes else "no labels: training.label_dropout is not set"
            yield "label", f"the network is told {has}, given {self.label}"
        if self.label is None and training.label_dropout == 0 and not self.exact:
            yield "label", "the network was always told one (training.label_dropout=0): say which to sample"
        if (self.guide is not None) != (guidance is not None and guidance.other):
            yield "guide", "a worse training for AutoGuidance, which needs one; nothing else uses it"
        if isinstance(guidance, CFG):
            if self.label is None:
                yield "label", "CFG needs the label to guide to"
            if not (training.label_dropout or self.exact):
                yield "training.label_dropout", "CFG needs a network trained with and without labels, as with 0.1"
        if guided is not None:
            if guided[0] != classes:
                yield "guide", f"should be told {classes} labels as the training is, given {guided[0]}"
            if guided[1] != dim:
                yield "guide", f"should have {dim} dimensions, given {guided[1]}"

    def shifted(self, by: int) -> Experiment:
        """The experiment with all seeds of trainings, those of its teachers and guide too, moved by a number."""
        guide = self.guide.shifted(by) if self.guide else None
        return self.replace(training=self.training.shifted(by), guide=guide)

    @property
    def has_score(self) -> bool:
        """Whether the score of the model is known at every noise level."""
        return self.training.gaussian and self.training.objective.posterior

    @property
    def has_density(self) -> bool:
        """Whether the density of the model is known."""
        training = self.training
        return training.objective.density or (training.prior is None and training.objective.posterior)

    @property
    def law(self) -> Target:
        """What the samples should follow: the target, the law of the label, or the one that guidance aims at."""
        target = self.training.target
        if self.label is None:
            return target
        if isinstance(self.guidance, CFG):
            from moonbed.targets.tilted import Tilted

            return Tilted(target=target, label=self.label, guidance=self.guidance.scale)
        return target.given(self.label)

    @property
    def needs(self) -> list[Training]:
        """The trainings whose networks are sampled with."""
        if self.exact:
            return []
        return [self.training] if self.guide is None else [self.training, self.guide]

    @property
    def rng(self) -> Rng:
        """The random streams of sampling and evaluation."""
        return Rng(self.training.seed).child("evaluation", self.seed)


def grouped(experiments: Iterable[Experiment]) -> dict[str, list[Experiment]]:
    """Training id -> its experiments, each once."""
    out: dict[str, dict[str, Experiment]] = {}
    for experiment in experiments:
        out.setdefault(experiment.training.id, {})[experiment.id] = experiment
    return {key: list(group.values()) for key, group in out.items()}
