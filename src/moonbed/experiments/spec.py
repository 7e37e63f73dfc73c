"""What is trained and what is sampled: two configurations with two ids.

Ten samplers on one network share one `Training.id`, so the network is trained once. Metrics are no part of either:
they are questions asked of samples that exist, and asking another one computes nothing anew.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from moonbed.component import Component, NonNegativeInt, Positive, PositiveFloat
from moonbed.diffusion import Objective, Prediction, Sampler, Schedule
from moonbed.diffusion.diffusers_bridge import Diffusers, DiffusersBetas
from moonbed.diffusion.objectives import Discrete
from moonbed.diffusion.predictions import Epsilon
from moonbed.experiments.optimizers import AdamW, Constant, LearningRate, Optimizer
from moonbed.networks import Network
from moonbed.networks.mlp import MLP
from moonbed.rng import Rng
from moonbed.targets import Target
from moonbed.targets.curves import TwoMoons

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Averaging", "Experiment", "Optimizer", "Training"]


class Averaging(Component):
    """A running average of the weights, used for sampling in place of the last ones."""

    @abstractmethod
    def update(self, average: list[Tensor], weights: list[Tensor], step: int) -> None:
        """Take in the weights after step `step` (1, 2, ...), in place. `average` starts as the initial weights."""


class Training(Component):
    """Everything that the weights of a network depend on."""

    target: Target = TwoMoons()
    schedule: Schedule = DiffusersBetas()
    prediction: Prediction = Epsilon()
    network: Network = MLP()
    objective: Objective = Objective(times=Discrete())
    optimizer: Optimizer = AdamW()
    learning_rate: LearningRate = Constant()
    averaging: Averaging | None = None
    steps: Positive = 40_000
    batch: Positive = 512
    points: Positive = 50_000
    """Size of the training set, drawn once; batches go through it without replacement, the last partial one dropped."""
    clip: PositiveFloat | None = 1.0
    """Largest norm of the gradient; None for no limit."""
    seed: NonNegativeInt = 0

    def check(self) -> Iterator[tuple[str, str]]:
        if self.batch > self.points:
            yield "batch", f"should be at most points ({self.points}), given {self.batch}"

    @property
    def rng(self) -> Rng:
        """The random streams of this training."""
        return Rng(self.seed).child("training")

    def build(self) -> nn.Module:
        """The network with its initial weights."""
        with self.rng.stream("init").as_global():
            return self.network.build(self.target.dim)

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

    def check(self) -> Iterator[tuple[str, str]]:
        if self.n < 10:
            yield "n", f"should be at least 10, given {self.n}"

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
