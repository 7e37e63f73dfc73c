"""Networks around a network: the gradient of an energy, and Fourier features of the input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from moonbed.component import Positive, PositiveFloat
from moonbed.networks.base import Network
from moonbed.networks.mlp import MLP

if TYPE_CHECKING:
    from torch import nn


class Wrapped(Network):
    """A network around another one, which has to be a field as well."""

    network: Network = MLP()

    def check(self) -> Iterator[tuple[str, str]]:
        if self.network.density:
            yield "network", f"should put out a field (n, dim), {type(self.network).__name__} puts out a density (n,)"


class Conservative(Wrapped):
    """F = grad_x E of the energy E(x, c) = x . G(x, c), where `network` is G: F = G + (dG/dx)' x.

    A score is a gradient, what a network gives is not: its Jacobian need not be symmetric (Salimans & Ho, Should EBMs
    model the energy or the score?, 2021). Whatever the prediction, eps and score of this F are gradients in x_t too.
    `energy` of the module is E (n,), of which several compose (Du et al., Reduce, Reuse, Recycle, 2023).

    Among simple energies the product x . G starts well: F = 0 and moves where G = 0 and moves; |G|² has no gradient
    there, and |x - G|²/2 starts with F = x. Nothing is lost: any smooth E is E(0) + x . G for some smooth G. F is as
    smooth as dG/dx, so G needs a smooth activation. A training step costs twice as much, an evaluation three to four
    times.
    """

    def build(self, dim: int) -> nn.Module:
        from moonbed.networks._modules import ConservativeModule

        return ConservativeModule(self.network.build(dim))


class FourierInput(Wrapped):
    """`network` sees [x, cos(2 pi B x), sin(2 pi B x)], B (count, dim) normal with standard deviation `scale`.

    Fourier features of the input (Tancik et al. 2020), for detail that a plain network learns late; their `scale` is
    the one thing to tune: detail of size d asks for about 1/(2 pi d). B is drawn with the weights, is not trained, and
    is part of the state dict. The inner network is built for dim + 2 count columns; the first dim of its output are F.
    """

    count: Positive = 16
    scale: PositiveFloat = 0.5

    def build(self, dim: int) -> nn.Module:
        from moonbed.networks._modules import FourierInputModule

        return FourierInputModule(dim, self.count, self.scale, self.network.build)
