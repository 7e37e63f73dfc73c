"""The torch modules behind the networks; imported when one is built."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn


class TimestepModule(nn.Module):
    """c_noise (n,) -> (n, width) through diffusers' `Timesteps` and `TimestepEmbedding`."""

    def __init__(self, channels: int, width: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.sinusoids = Timesteps(channels, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.mlp = TimestepEmbedding(channels, width)

    def forward(self, c_noise: Tensor) -> Tensor:
        return self.mlp(self.sinusoids(self.scale * c_noise).to(c_noise))


class FourierModule(nn.Module):
    """c_noise (n,) -> (n, 2 count): cosines and sines."""

    def __init__(self, count: int, low: float, high: float) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.logspace(math.log10(low), math.log10(high), count), persistent=False)

    def forward(self, c_noise: Tensor) -> Tensor:
        return waves(c_noise[:, None] * self.frequencies)


class GaussianFourierModule(nn.Module):
    """c_noise (n,) -> (n, 2 count): cosines and sines of random frequencies."""

    def __init__(self, count: int, scale: float) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", scale * torch.randn(count))

    def forward(self, c_noise: Tensor) -> Tensor:
        return waves(2 * math.pi * c_noise[:, None] * self.frequencies)


def waves(angle: Tensor) -> Tensor:
    """(n, k) -> (n, 2 k): cosines, then sines."""
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def zero(linear: nn.Linear) -> nn.Linear:
    """The layer with weights and bias set to zero."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class Conditioned(nn.Module):
    """A network that is told more than x and the noise level: `columns` behind x, of which nothing is put out.

    With a `head` it puts out, while it is trained, one number more: a function of the noise level alone, 0 at first.
    """

    def __init__(self, inner: nn.Module, dim: int, head: bool) -> None:
        super().__init__()
        self.inner, self.dim = inner, dim
        self.features = FourierModule(16, 0.5, 30.0) if head else None
        self.head = zero(nn.Linear(32, 1)) if head else None

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        out = self.inner(x, c_noise)[:, : self.dim]
        if self.head is None or self.features is None or not self.training:
            return out
        return torch.cat([out, self.head(self.features(c_noise)).expand(len(x), 1)], dim=1)


class MLPModule(nn.Module):
    """See `moonbed.networks.mlp.MLP`."""

    def __init__(self, dim: int, hidden: Sequence[int], embedding: nn.Module, width: int) -> None:
        super().__init__()
        self.embedding = embedding
        widths = [dim + width, *hidden]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), nn.SiLU()]
        self.layers = nn.Sequential(*layers, zero(nn.Linear(widths[-1], dim)))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        emb = self.embedding(c_noise).expand(len(x), -1)
        return self.layers(torch.cat([x, emb], dim=-1))


class ResidualBlock(nn.Module):
    """One block of `moonbed.networks.residual.Residual`."""

    def __init__(self, width: int, dropout: float, emb_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.time = nn.Linear(emb_width, width)
        self.linear1 = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(width)
        self.linear2 = zero(nn.Linear(width, width))
        self.act = nn.SiLU()

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        inner = self.dropout(self.linear1(self.act(self.norm1(h) + self.time(emb))))
        return h + self.linear2(self.act(self.norm2(inner)))


class ResidualModule(nn.Module):
    """See `moonbed.networks.residual.Residual`."""

    def __init__(self, dim: int, width: int, blocks: int, dropout: float, embedding: nn.Module, emb_width: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.stem = nn.Linear(dim, width)
        self.blocks = nn.ModuleList([ResidualBlock(width, dropout, emb_width) for _ in range(blocks)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), zero(nn.Linear(width, dim)))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        emb = self.embedding(c_noise)
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, emb)
        return self.head(h)


class AdaLNBlock(nn.Module):
    """One block of `moonbed.networks.adaln.AdaLN`."""

    def __init__(self, width: int, expansion: int, emb_width: int) -> None:
        super().__init__()
        self.modulation = zero(nn.Linear(emb_width, 3 * width))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        inner = expansion * width
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(approximate="tanh"), nn.Linear(inner, width))

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(emb).chunk(3, dim=-1)
        return h + gate * self.mlp((1 + scale) * self.norm(h) + shift)


class AdaLNModule(nn.Module):
    """See `moonbed.networks.adaln.AdaLN`."""

    def __init__(self, dim: int, width: int, blocks: int, expansion: int, embedding: nn.Module, emb_width: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.stem = nn.Linear(dim, width)
        self.blocks = nn.ModuleList([AdaLNBlock(width, expansion, emb_width) for _ in range(blocks)])
        self.modulation = zero(nn.Linear(emb_width, 2 * width))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.head = zero(nn.Linear(width, dim))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        emb = nn.functional.silu(self.embedding(c_noise))
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, emb)
        shift, scale = self.modulation(emb).chunk(2, dim=-1)
        return self.head((1 + scale) * self.norm(h) + shift)


class ConservativeModule(nn.Module):
    """See `moonbed.networks.wrapped.Conservative`. `torch.func` nests: in no_grad, under vmap, in gradients of it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def energy(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """(n,): E(x, c_noise)."""
        return (x * self.network(x, c_noise)).sum(-1)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        if torch.is_inference_mode_enabled():  # in which the gradient of torch 2.6 is zero
            with torch.inference_mode(False), torch.no_grad():
                return self.forward(x.clone(), c_noise.clone())
        return torch.func.grad(lambda y: self.energy(y, c_noise).sum())(x)


class FourierInputModule(nn.Module):
    """See `moonbed.networks.wrapped.FourierInput`; `build` makes the inner network from its width."""

    def __init__(self, dim: int, count: int, scale: float, build: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.directions: Tensor
        self.register_buffer("directions", scale * torch.randn(count, dim))
        self.network = build(dim + 2 * count)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        features = torch.cat([x, waves(2 * math.pi * x @ self.directions.mT)], dim=-1)
        return self.network(features, c_noise)[..., : x.shape[-1]]
