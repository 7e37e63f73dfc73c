"""Networks: a function of one row and its noise level, all of whose weights are used, and that a stream decides.

A sampler asks with one noise level for all rows, training with one for each; samples are made in parts of any size. So
a network has to treat rows alike and apart, and to be the same function whenever it is built from the same stream.
Networks that start as F = 0 are looked at after their weights have been moved.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moonbed.laws.base import Law, hold, numbers
from moonbed.networks import Embedding, Network
from moonbed.rng import Rng

ROWS = 7


def _inputs(dim: int) -> tuple[Tensor, Tensor]:
    return Rng(0).stream("x").normal((ROWS, dim)), Rng(0).stream("c_noise").uniform((ROWS,))


def _built(member: Network | Embedding, *dim: int, seed: int = 0) -> nn.Module:
    with Rng(seed).stream("init").as_global():
        module = member.build(*dim)
    hold(isinstance(module, nn.Module), f"build returns a {type(module).__name__}, not a torch.nn.Module")
    return module


def _moved(module: nn.Module, size: float = 0.1) -> nn.Module:
    """With random numbers added to all weights: those that start at zero too."""
    stream = Rng(1).stream("weights")
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * stream.normal(p.shape).to(p))
    return module


def _apart(got: Tensor, wanted: Tensor) -> float:
    """Largest difference, in units of 1 + the size of what is wanted."""
    return float(((got - wanted).abs() / (1 + wanted.abs())).max().detach())


def network_has_its_shape(network: Network) -> None:
    """x (n, dim) and c_noise (n,) or (1,) give finite (n, dim) in the type of x, in any dimension."""
    for dim in (1, 2, 5):
        module = _moved(_built(network, dim)).eval()
        x, c_noise = _inputs(dim)
        for level in (c_noise, c_noise[:1]):
            what = f"output for x {tuple(x.shape)} and c_noise {tuple(level.shape)}"
            numbers(module(x, level), (ROWS, dim), what, torch.float32)
        numbers(module(x[:1], c_noise[:1]), (1, dim), "output for one row", torch.float32)


def network_knows_the_level(network: Network) -> None:
    """The output depends on x and on c_noise, and one level (1,) is that level for every row."""
    module = _moved(_built(network, 2)).eval()
    x, c_noise = _inputs(2)
    out = module(x, c_noise)
    hold(_apart(module(x + 0.5, c_noise), out) > 1e-7, "x moved by 0.5 changes nothing")
    hold(_apart(module(x, c_noise + 0.5), out) > 1e-7, "c_noise moved by 0.5 changes nothing")
    off = _apart(module(x, c_noise[:1]), module(x, c_noise[:1].expand(ROWS)))
    hold(off < 1e-4, f"c_noise of shape (1,) and the same level {ROWS} times differ by {off:.3g}")


def network_keeps_rows_apart(network: Network) -> None:
    """In eval mode a row's output depends on no other row."""
    module = _moved(_built(network, 2)).eval()
    x, c_noise = _inputs(2)
    rows = torch.cat([module(x[k : k + 1], c_noise[k : k + 1]) for k in range(ROWS)])
    off = _apart(module(x, c_noise), rows)
    hold(off < 1e-4, f"rows asked together and one by one differ by {off:.3g}")


def network_learns_with_all_weights(network: Network) -> None:
    """The gradient reaches every parameter, and there are some."""
    module = _moved(_built(network, 2)).train()
    named = dict(module.named_parameters())
    hold(named, "there are no parameters: are the layers attributes of the module?")
    with Rng(2).stream("dropout").as_global():
        module(*_inputs(2)).square().sum().backward()
    idle = [name for name, p in named.items() if p.requires_grad and (p.grad is None or not p.grad.abs().max() > 0)]
    hold(not idle, f"no gradient reaches {len(idle)} of {len(named)} parameters: {', '.join(idle[:5])}")
    bad = [name for name, p in named.items() if p.grad is not None and not p.grad.isfinite().all()]
    hold(not bad, f"the gradient of {', '.join(bad[:5])} is not finite")


def network_is_reproducible(network: Network) -> None:
    """One stream builds one network, and in eval mode one input has one output."""
    x, c_noise = _inputs(2)
    first, second = (_built(network, 2).eval() for _ in range(2))
    a, b = first.state_dict(), second.state_dict()
    differ = [name for name in a if not torch.equal(a[name], b[name])]
    hold(not differ, f"one stream gives two weights: {', '.join(differ[:5])}")
    first, second = _moved(first), _moved(second)
    out, again, other = first(x, c_noise), first(x, c_noise), second(x, c_noise)
    hold(torch.equal(out, again), f"one input gives outputs that differ by {_apart(again, out):.3g}, in eval mode")
    off = _apart(other, out)
    hold(off < 1e-5, f"two networks with one set of weights differ by {off:.3g}: not all that is random is a weight")


def density_has_mass_one(network: Network) -> None:
    """x (n, 2) gives finite log densities (n,), whose mass is one."""
    module, side, n = _moved(_built(network, 2)).eval(), 9.0, 300
    axis = side * (2 * (torch.arange(n) + 0.5) / n - 1)
    points = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        log_q = numbers(module(points, points.new_zeros(1)), (n * n,), "log density", torch.float32)
    mass = float(log_q.double().exp().sum()) * (2 * side / n) ** 2
    hold(abs(mass - 1) < 0.02, f"mass {mass:.4f}, not 1, within [-{side:g}, {side:g}]²")


NETWORK_LAWS: list[Law] = [
    network_has_its_shape,
    network_knows_the_level,
    network_keeps_rows_apart,
    network_learns_with_all_weights,
    network_is_reproducible,
]

DENSITY_LAWS: list[Law] = [
    density_has_mass_one,
    network_keeps_rows_apart,
    network_learns_with_all_weights,
    network_is_reproducible,
]
"""Of networks that are a density."""


def embedding_has_its_width(embedding: Embedding) -> None:
    """c_noise (n,) gives finite (n, width), another for another level, and no row depends on another."""
    _, c_noise = _inputs(2)
    module = _moved(_built(embedding)).eval()
    out = numbers(module(c_noise), (ROWS, embedding.width), "features", None).detach()
    nearest = float((torch.cdist(out, out) + 1e9 * torch.eye(ROWS)).min())
    hold(nearest > 1e-6, f"two levels have features that differ by {nearest:.3g}")
    off = _apart(torch.cat([module(c_noise[k : k + 1]) for k in range(ROWS)]), out)
    hold(off < 1e-4, f"levels asked together and one by one differ by {off:.3g}")


def embedding_is_reproducible(embedding: Embedding) -> None:
    """One stream builds one embedding."""
    _, c_noise = _inputs(2)
    a, b = (_built(embedding).eval()(c_noise) for _ in range(2))
    hold(torch.equal(a, b), f"one stream gives two embeddings, which differ by {_apart(a, b):.3g}")


EMBEDDING_LAWS: list[Law] = [embedding_has_its_width, embedding_is_reproducible]
