"""Few steps: networks that learn where the probability flow leads, so that one or some evaluations follow it.

*Consistency models* (Song et al. 2023) learn f(x_t, t) = x_0 at the end of the flow. f is used as a denoiser is, by
`Renoise`. *Flow maps* learn the average velocity U from t to u < t, and `jump` follows it, as `Jump` does:

    x_u = x_t + (u - t) U(x_t, t, u),    U(x_t, t, t) = velocity

Both are bound by what they say of themselves: f is constant along the flow, and a long jump is two short ones
(shortcut), or its derivative is that of the flow (MeanFlow). Those targets need the network, so they are in the loss.
`Progressive`, which needs a teacher only, is in `objectives`; reflow is `Denoising` with the coupling `Pairs`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple

from annotated_types import Gt, Lt

from moonbed._lazy import lazy_import
from moonbed.component import Fraction, NonNegative, Positive, PositiveFloat
from moonbed.diffusion.data import Data, Rows
from moonbed.diffusion.denoisers import Denoiser, Learned, column
from moonbed.diffusion.objectives import NetworkFunction, Objective, required, with_columns
from moonbed.diffusion.predictions import Prediction, Velocity
from moonbed.diffusion.regressions import Regression, StableTarget
from moonbed.diffusion.schedules import Schedule
from moonbed.diffusion.times import LogNormal, Times, Uniform
from moonbed.rng import Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch = lazy_import("torch")

__all__ = ["FlowMap"]

Gap = Annotated[float, Gt(0), Lt(1)]


class Path(NamedTuple):
    """Data and their noisy points (n, dim) at the times t, and times u (n,) to come."""

    x0: Tensor
    x_t: Tensor
    t: Tensor
    u: Tensor


class ConsistencyRows(NamedTuple):
    """f(x) = skip + c_out F(x, c_noise) at two noise levels of one path, (n, dim) and (n,)."""

    x: Tensor
    c_noise: Tensor
    skip: Tensor
    c_out: Tensor
    x_less: Tensor
    c_noise_less: Tensor
    skip_less: Tensor
    c_out_less: Tensor


class Consistency(Objective):
    """Objectives for f(x_t, t) = f(x_u, u), u the time of a smaller noise ratio on the same path.

    The loss is |f - f'|²/c_out², without gradient through f' = f(x_u, u); at the least noise, f' is x_u. The noise
    ratios are `gap` of the larger apart, which falls geometrically from `first_gap` to `last_gap` over the training:
    far apart, what is known at little noise soon reaches much noise; near, it is not blurred on the way (Song and
    Dhariwal 2024; Geng et al. 2024). Orthogonalised updates (Muon) let f collapse to a constant, where AdamW does not.
    """

    row_type: ClassVar[type] = ConsistencyRows
    posterior: ClassVar[bool] = False
    times: Times = LogNormal(mean=0.0, std=2.0)
    first_gap: Gap = 0.5
    last_gap: Gap = 0.0625

    def check(self) -> Iterator[tuple[str, str]]:
        yield from _only_plain(self.times)

    @abstractmethod
    def before(self, path: Path, schedule: Schedule, data: Data, stream: Stream) -> Tensor:
        """(n, dim): the point at u on the path through x_t at t."""

    def examples(
        self, prediction: Prediction, schedule: Schedule, rows: Rows, data: Data, stream: Stream
    ) -> ConsistencyRows:
        x0 = rows.x0
        t = self.times.sample(len(x0), schedule, stream)
        x1, told = data.noise(x0, stream), data.columns(rows.labels, stream)
        ratio = torch.exp(-schedule.logsnr(t) / 2)
        share = 1 - self.first_gap * (self.last_gap / self.first_gap) ** rows.progress
        least = torch.exp(-schedule.logsnr(torch.zeros_like(t)) / 2)
        less = torch.where(share * ratio > 1.0001 * least, share * ratio, least)
        u = torch.where(less > least, schedule.time(-2 * torch.log(less)), torch.zeros_like(t))
        x_t = column(schedule.alpha(t), x0) * x0 + column(schedule.sigma(t), x0) * x1
        x_u = self.before(Path(x0, x_t, t, u), schedule, data, stream)
        parts: list[Tensor] = []
        for x, time, end in ((x_t, t, torch.zeros_like(t, dtype=torch.bool)), (x_u, u, u == 0)):
            c_skip, c_out = prediction.scalings(schedule, time)
            skip = torch.where(end[:, None], x / column(schedule.alpha(time), x), column(c_skip, x) * x)
            told_x = with_columns(column(prediction.c_in(schedule, time), x) * x, told)
            parts += [told_x, prediction.c_noise(schedule, time).to(x0), skip, torch.where(end, 0.0, c_out).to(x0)]
        return ConsistencyRows(*parts)

    def loss(self, network: NetworkFunction, examples: NamedTuple) -> Tensor:
        x, c_noise, skip, c_out, x_less, c_noise_less, skip_less, c_out_less = examples
        f = skip + c_out[:, None] * network(x, c_noise)
        wanted = (skip_less + c_out_less[:, None] * network(x_less, c_noise_less)).detach()
        return (f - wanted).square().mean(-1) / c_out**2


class ConsistencyTraining(Consistency):
    """Consistency training without a teacher (Song et al. 2023).

    x_u is a step of DDIM from x_t with, in place of x_0, what `regression` makes of it. `Drawn` is the textbook's: x_u
    has the noise of x_t. `StableTarget` averages over the points that x_t may come from, which is less noise.
    """

    regression: Regression = StableTarget()

    def before(self, path: Path, schedule: Schedule, data: Data, stream: Stream) -> Tensor:
        x0, x_t, t, u = path
        a, s = schedule.alpha(t), schedule.sigma(t)
        correction = self.regression.correction(data, x0, x_t, a, s, stream)
        end = x0 if correction is None else x0 + correction.to(x0)
        kept = schedule.sigma(u) / s  # the rest of x_t is noise: DDIM's step with `end` for x_0
        return column(kept, x0) * x_t + column(schedule.alpha(u) - kept * a, x0) * end


class ConsistencyDistillation(Consistency):
    """Consistency distillation (Song et al. 2023): x_u is where the teacher's flow leads from x_t.

    By Heun's method in the noise ratio sigma/alpha, in which the flow is straight where there is much noise.
    """

    def before(self, path: Path, schedule: Schedule, data: Data, stream: Stream) -> Tensor:
        teacher, (_, x_t, t, u) = required(data.teacher), path
        a, b = schedule.alpha(t), schedule.alpha(u)
        h = column(schedule.sigma(u) / b - schedule.sigma(t) / a, x_t)
        y, b = x_t / column(a, x_t), column(b, x_t)
        with torch.no_grad():
            slope = teacher.eps(x_t, t)
            return b * (y + h / 2 * (slope + teacher.eps(b * (y + h * slope), u)))

    def problems(self, prediction: Prediction, teacher: bool) -> Iterator[tuple[str, str]]:
        if not teacher:
            yield "teacher", "ConsistencyDistillation needs one: a training"


class FlowMap(Learned):
    """A network that puts out the average velocity from t to u; its last column is t - u."""

    def jump(self, x_t: Tensor, t: float | Tensor, u: float | Tensor) -> Tensor:
        t, u = torch.as_tensor(t, dtype=torch.float64), torch.as_tensor(u, dtype=torch.float64)
        return x_t + column(u - t, x_t) * self.raw(x_t, t, column(t - u, x_t).expand(len(x_t), 1))

    def combine(self, x_t: Tensor, t: Tensor, w_x: Tensor | float, w_d: Tensor | float) -> Tensor:
        c_skip, c_out = self.prediction.scalings(self.schedule, t)
        raw = self.raw(x_t, t, x_t.new_zeros(len(x_t), 1))
        return column(w_x + w_d * c_skip, x_t) * x_t + column(w_d * c_out, x_t) * raw


class AverageVelocity(Objective):
    """Objectives whose network is a `FlowMap`; the prediction is `Velocity`."""

    columns: ClassVar[int] = 1
    times: Times = Uniform()

    def check(self) -> Iterator[tuple[str, str]]:
        yield from _only_plain(self.times)

    def denoiser(self, network: nn.Module, prediction: Prediction, schedule: Schedule, classes: int) -> Denoiser:
        return FlowMap(network, prediction, schedule, classes)

    def problems(self, prediction: Prediction, teacher: bool) -> Iterator[tuple[str, str]]:
        yield from super().problems(prediction, teacher)
        if not isinstance(prediction, Velocity):
            mine, given = type(self).__name__, type(prediction).__name__
            yield "prediction", f"{mine} learns an average velocity: should be Velocity, given {given}"


class ShortcutRows(NamedTuple):
    """x (n, dim + columns), c_noise at t and half way; x_t (n, dim); half (n,), 0 for rows with a known target."""

    x: Tensor
    c_noise: Tensor
    target: Tensor
    x_t: Tensor
    told: Tensor
    half: Tensor
    c_noise_half: Tensor
    c_in_half: Tensor


class Shortcut(AverageVelocity):
    """Shortcut models (Frans et al. 2025): a jump of 2 d is two jumps of d, which the network makes itself.

    A share `bootstrap` of the rows is trained on that, with 2 d one of 1, 1/2, ..., 2/`steps`; the others on the
    velocity, at d = 0. `steps` is a power of two.
    """

    row_type: ClassVar[type] = ShortcutRows
    bootstrap: Fraction = 0.25
    steps: Positive = 128

    def check(self) -> Iterator[tuple[str, str]]:
        yield from super().check()
        if self.steps < 2 or self.steps & (self.steps - 1):
            yield "steps", f"should be a power of two, at least 2, given {self.steps}"

    def examples(
        self, prediction: Prediction, schedule: Schedule, rows: Rows, data: Data, stream: Stream
    ) -> ShortcutRows:
        x0, n = rows.x0, len(rows.x0)
        t = self.times.sample(n, schedule, stream)
        short = stream.uniform((n,), torch.float64) >= self.bootstrap
        lengths = 0.5 ** stream.integers(self.steps.bit_length() - 1, (n,)).double()
        # A jump of 2 d starts at a multiple of it, so that it ends at or above 0
        t = torch.where(short, t, lengths * (1 + (stream.uniform((n,), torch.float64) / lengths).floor()))
        half = torch.where(short, 0.0, lengths / 2)
        x1, told = data.noise(x0, stream), data.columns(rows.labels, stream)
        da, ds = schedule.derivatives(t)
        x_t = column(schedule.alpha(t), x0) * x0 + column(schedule.sigma(t), x0) * x1
        target = column(da, x0) * x0 + column(ds, x0) * x1
        middle = t - half
        scaled = column(prediction.c_in(schedule, t), x0) * x_t
        c_noise, c_noise_half = prediction.c_noise(schedule, t), prediction.c_noise(schedule, middle)
        told = x0.new_zeros(n, 0) if told is None else told.to(x0)
        c_in_half = prediction.c_in(schedule, middle)
        return ShortcutRows(
            scaled, c_noise.to(x0), target, x_t, told, half.to(x0), c_noise_half.to(x0), c_in_half.to(x0)
        )

    def loss(self, network: NetworkFunction, examples: NamedTuple) -> Tensor:
        x, c_noise, target, x_t, told, half, c_noise_half, c_in_half = examples
        d = half[:, None]
        with torch.no_grad():
            first = network(torch.cat([x, told, d], dim=1), c_noise)
            middle = c_in_half[:, None] * (x_t - d * first)
            second = network(torch.cat([middle, told, d], dim=1), c_noise_half)
        wanted = torch.where(d > 0, (first + second) / 2, target)
        out = network(torch.cat([x, told, 2 * d], dim=1), c_noise)
        return (out - wanted).square().mean(-1)


class MeanFlowRows(NamedTuple):
    """x, c_noise and the last column at (t, u) with their derivatives along the path, (n, dim + k) and (n,)."""

    x: Tensor
    c_noise: Tensor
    x_rate: Tensor
    c_noise_rate: Tensor
    velocity: Tensor
    span: Tensor


class MeanFlow(AverageVelocity):
    """MeanFlow (Geng et al. 2025): U = v - (t - u) dU/dt along the path, by a Jacobian-vector product.

    t and u are the larger and the smaller of two draws of `times`; a share `instant` of the rows has u = t, where U is
    the velocity. The loss is |error|²/(|error|² + c)^power, without gradient through the weight. The paper has `power`
    0.75 or 1, for images; in two dimensions, where single errors are large by chance, its minimum is not the mean.
    The derivative goes through the embedding of the time: with `Timestep`, up to 999 radians a unit, training explodes.
    """

    row_type: ClassVar[type] = MeanFlowRows
    instant: Fraction = 0.5
    power: NonNegative = 0.0
    c: PositiveFloat = 1e-3

    def examples(
        self, prediction: Prediction, schedule: Schedule, rows: Rows, data: Data, stream: Stream
    ) -> MeanFlowRows:
        x0, n = rows.x0, len(rows.x0)
        one, two = (self.times.sample(n, schedule, stream) for _ in range(2))
        t, u = torch.maximum(one, two), torch.minimum(one, two)
        u = torch.where(stream.uniform((n,), torch.float64) < self.instant, t, u)
        x1, told = data.noise(x0, stream), data.columns(rows.labels, stream)
        da, ds = schedule.derivatives(t)
        x_t = column(schedule.alpha(t), x0) * x0 + column(schedule.sigma(t), x0) * x1
        velocity = column(da, x0) * x0 + column(ds, x0) * x1
        c_in, c_in_rate = _with_rate(lambda t: prediction.c_in(schedule, t), t)
        c_noise, c_noise_rate = _with_rate(lambda t: prediction.c_noise(schedule, t), t)
        none = None if told is None else torch.zeros_like(told)
        span = (t - u).to(x0)
        x = with_columns(column(c_in, x0) * x_t, told, span[:, None])
        rate = column(c_in_rate, x0) * x_t + column(c_in, x0) * velocity
        x_rate = with_columns(rate, none, torch.ones_like(span)[:, None])
        return MeanFlowRows(x, c_noise.to(x0), x_rate, c_noise_rate.to(x0), velocity, span)

    def loss(self, network: NetworkFunction, examples: NamedTuple) -> Tensor:
        x, c_noise, x_rate, c_noise_rate, velocity, span = examples
        out, rate, *_ = torch.func.jvp(network, (x, c_noise), (x_rate, c_noise_rate))
        wanted = (velocity - span[:, None] * rate).detach()
        error = (out - wanted).square().mean(-1)
        return error / (error.detach() + self.c) ** self.power


def _only_plain(times: Times) -> Iterator[tuple[str, str]]:
    if not times.plain:
        yield "times", f"{type(times).__name__} draws in a way of its own, which is for Denoising"


def _with_rate(f: Callable[[Tensor], Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    """f(t) (n,) and its derivative, for a function that treats the entries of t alike."""
    with torch.enable_grad():
        t = t.detach().clone().requires_grad_()
        value = f(t) + 0 * t
        (rate,) = torch.autograd.grad(value.sum(), t)
    return value.detach(), rate
