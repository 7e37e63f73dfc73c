"""Objectives: what training minimises.

    loss = weight(t) |F - F*|²/dim,   t from a distribution of times,   F* = the raw output that would give x_0

Plain squared error on F is the x_0 loss weighted by 1/c_out², so denoising is a weight, a distribution of times and a
coupling, and does not depend on the prediction. A weight of one is "the simple loss" of what the network predicts.

An objective turns data into rows of a regression, as many at once as one likes; a training step takes some of them and
is their loss and nothing else. Where nothing but the loss depends on the weights of the network, so that all else can
be prepared, resumed and stacked. It also says what the trained network is: a denoiser, a flow map, a density.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from moonbed._lazy import lazy_import
from moonbed.component import Component, Positive
from moonbed.diffusion.couplings import Coupling, Independent
from moonbed.diffusion.data import Data, Rows
from moonbed.diffusion.denoisers import Denoiser, Learned, column
from moonbed.diffusion.predictions import Prediction
from moonbed.diffusion.regressions import Drawn, Regression
from moonbed.diffusion.samplers import Spacing, UniformLogSNR
from moonbed.diffusion.schedules import Schedule, at
from moonbed.diffusion.times import Adaptive, Times, Uniform
from moonbed.diffusion.weights import Natural, Weight
from moonbed.rng import Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch = lazy_import("torch")

__all__ = ["Denoising", "Examples", "NetworkFunction", "Objective", "Regressing"]

NetworkFunction = Callable[["Tensor", "Tensor"], "Tensor"]
"""F(x, c_noise): (n, dim + columns), (n,) -> (n, dim)."""


class Examples(NamedTuple):
    """Rows of a regression, weight |F(x, c_noise) - target|²/dim: (n, dim), (n,), (n, dim), (n,) in the data's type.

    x has further columns where the network is told more than the noise level.
    """

    x: Tensor
    c_noise: Tensor
    target: Tensor
    weight: Tensor


class Objective(Component):
    """What a network is trained for. A member gives `examples` and `loss`."""

    row_type: ClassVar[type] = Examples
    """The named tuple that `examples` returns; its fields have one entry for each row."""
    density: ClassVar[bool] = False
    """Whether the network is a density itself."""
    columns: ClassVar[int] = 0
    """What the network is told beside x, the noise level and the label: columns behind x."""

    @abstractmethod
    def examples(
        self, prediction: Prediction, schedule: Schedule, rows: Rows, data: Data, stream: Stream
    ) -> NamedTuple:
        """A `row_type`, an entry for each of `rows`, in the type of the data. Nothing here depends on the network."""

    @abstractmethod
    def loss(self, network: NetworkFunction, examples: NamedTuple) -> Tensor:
        """(n,): the loss of each row."""

    posterior: ClassVar[bool] = True
    """Whether the trained network is an estimate of E[x_0 | x_t]."""

    def denoiser(self, network: nn.Module, prediction: Prediction, schedule: Schedule, classes: int) -> Denoiser:
        """What the trained network is used as; `classes` columns of its input are for a label."""
        return Learned(network, prediction, schedule, classes)

    def problems(self, prediction: Prediction, teacher: bool) -> Iterator[tuple[str, str]]:
        """(field of the training, message) for what does not go with this objective."""
        yield from _no_teacher(self, teacher)

    @property
    def gaussian(self) -> bool:
        """Whether noise is joined with data independently, so that the score is known from the denoiser."""
        return True

    @property
    def head(self) -> bool:
        """Whether the network puts out the logarithm of its loss as well, while it is trained."""
        return False

    @property
    def adaptive(self) -> bool:
        """Whether `adapted` says more than `self`."""
        return False

    def adapted(
        self,
        network: NetworkFunction,
        prediction: Prediction,
        schedule: Schedule,
        rows: Rows,
        data: Data,
        stream: Stream,
    ) -> Objective:
        """The objective as the losses of the network ask for it now."""
        return self


def _no_teacher(objective: Objective, teacher: bool) -> Iterator[tuple[str, str]]:
    if teacher:
        yield "teacher", f"{type(objective).__name__} does not use one"


class Regressing(Objective):
    """Objectives that are a weighted regression on something known beforehand."""

    def loss(self, network: NetworkFunction, examples: NamedTuple) -> Tensor:
        x, c_noise, target, weight = examples
        return weight * (network(x, c_noise) - target).square().mean(-1)


class Denoising(Regressing):
    """Denoising regression: a distribution of times, a weight, a coupling, and what is regressed on."""

    times: Times = Uniform()
    weight: Weight = Natural()
    coupling: Coupling = Independent()
    regression: Regression = Drawn()

    def examples(self, prediction: Prediction, schedule: Schedule, rows: Rows, data: Data, stream: Stream) -> Examples:
        """Each row of x_0 at a random time with random noise."""
        x0 = rows.x0
        t, importance = self.times.draw(len(x0), schedule, stream)
        t = t.to(x0.device)
        schedule = at(schedule, t)
        x0, x1 = self.coupling.join(x0, data.noise(x0, stream), rows.labels, data, stream)
        a, s = schedule.alpha(t), schedule.sigma(t)
        c_skip, c_out = prediction.scalings(schedule, t)
        x_t = column(a, x0) * x0 + column(s, x0) * x1
        # F* = (x_0 - c_skip x_t)/c_out, with its coefficients merged in float64: exactly eps where F is eps
        target = column((1 - c_skip * a) / c_out, x0) * x0 + column(-c_skip * s / c_out, x0) * x1
        correction = self.regression.correction(data, x0, x_t, a, s, stream)
        if correction is not None:
            target = target + column(1 / c_out, x0) * correction.to(x0)
        weight = importance * torch.as_tensor(self.weight(schedule, t, c_out), device=x0.device)
        x = with_columns(column(prediction.c_in(schedule, t), x0) * x_t, data.columns(rows.labels, stream))
        return Examples(x, prediction.c_noise(schedule, t).to(x0), target, weight.to(x0).expand(len(x0)))

    def loss(self, network: NetworkFunction, examples: NamedTuple) -> Tensor:
        if not self.head:
            return super().loss(network, examples)
        x, c_noise, target, weight = examples
        out = network(x, c_noise)
        error, u = (out[:, :-1] - target).square().mean(-1), out[:, -1]
        return weight * (error * torch.exp(-u) + u)  # the weight is how seldom the time is drawn

    def problems(self, prediction: Prediction, teacher: bool) -> Iterator[tuple[str, str]]:
        if self.coupling.teacher != teacher:
            who = type(self.coupling).__name__
            yield "teacher", f"{who} needs one: a training" if not teacher else f"{who} does not use one"
        if not (self.coupling.independent or self.regression.drawn):
            yield (
                "objective.regression",
                f"{type(self.regression).__name__} needs independent noise; with the coupling "
                f"{type(self.coupling).__name__} the law of x_0 given x_t is another",
            )

    @property
    def gaussian(self) -> bool:
        return self.coupling.independent

    @property
    def head(self) -> bool:
        return self.weight.learned

    @property
    def adaptive(self) -> bool:
        return isinstance(self.times, Adaptive)

    def adapted(
        self,
        network: NetworkFunction,
        prediction: Prediction,
        schedule: Schedule,
        rows: Rows,
        data: Data,
        stream: Stream,
    ) -> Objective:
        if not isinstance(self.times, Adaptive):
            return self
        places = stream.integers(len(rows.x0), (self.times.probe,))
        some = Rows(rows.x0[places], None if rows.labels is None else rows.labels[places], rows.progress)
        probe = self.replace(times=self.times.strata())
        losses = self.loss(network, probe.examples(prediction, schedule, some, data, stream))
        return self.replace(times=self.times.adapted(losses))


class Progressive(Regressing):
    """Progressive distillation (Salimans & Ho 2022): one step of the student is two of the teacher.

    The student makes `steps` steps of `Jump` through `spacing`, which the teacher makes in halves. Regressed on is the
    x_0 that takes x_t where the teacher's two steps lead. A chain of trainings, each the teacher of the next with half
    of the steps, comes down to one.
    """

    posterior = False
    steps: Positive = 4
    spacing: Spacing = UniformLogSNR()
    weight: Weight = Natural()

    def examples(self, prediction: Prediction, schedule: Schedule, rows: Rows, data: Data, stream: Stream) -> Examples:
        x0, teacher = rows.x0, required(data.teacher)
        grid = self.spacing.times(schedule, 2 * self.steps)
        k = 2 * stream.integers(self.steps, (len(x0),))
        t, middle, u = grid[k], grid[k + 1], grid[k + 2]
        a, s, b, r = schedule.alpha(t), schedule.sigma(t), schedule.alpha(u), schedule.sigma(u)
        c_skip, c_out = prediction.scalings(schedule, t)
        x_t = column(a, x0) * x0 + column(s, x0) * data.noise(x0, stream)
        told = data.columns(rows.labels, stream)
        with torch.no_grad():
            end = teacher.jump(teacher.jump(x_t, t, middle), middle, u)
        kept = r / s
        wanted = (end - column(kept, x0) * x_t) / column(b - kept * a, x0)
        target = (wanted - column(c_skip, x0) * x_t) / column(c_out, x0)
        weight = torch.as_tensor(self.weight(schedule, t, c_out)).to(x0).expand(len(x0))
        x = with_columns(column(prediction.c_in(schedule, t), x0) * x_t, told)
        return Examples(x, prediction.c_noise(schedule, t).to(x0), target, weight)

    def problems(self, prediction: Prediction, teacher: bool) -> Iterator[tuple[str, str]]:
        if not teacher:
            yield "teacher", "Progressive needs one: a training"


def required(teacher: Denoiser | None) -> Denoiser:
    """The teacher. Raises ValueError where there is none, which a training refuses when it is configured."""
    if teacher is None:
        raise ValueError("this objective needs a teacher")
    return teacher


def with_columns(x: Tensor, *more: Tensor | None) -> Tensor:
    """x (n, dim) and further columns, (n, k) each or None."""
    found = [part.to(x) for part in more if part is not None]
    return torch.cat([x, *found], dim=1) if found else x
