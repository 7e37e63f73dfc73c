"""Networks as tapes: what torch computes, and nothing of torch left, for every member and for modules of anyone."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from moonbed.component import members
from moonbed.laws.networks import _built, _moved
from moonbed.live.pack import Blob, array
from moonbed.live.replay import BINARY, UNARY, run_tape
from moonbed.live.tape import TILE, Untraceable, describe, trace
from moonbed.networks import Network
from moonbed.networks._modules import Conditioned
from moonbed.networks.adaln import AdaLN
from moonbed.networks.embeddings import Fourier, GaussianFourier
from moonbed.networks.mlp import MLP
from moonbed.networks.residual import Residual
from moonbed.networks.wrapped import Conservative, FourierInput

SMALL = MLP(hidden=(16, 16))
NETWORKS = [
    *(
        cls()
        for name, cls in sorted(members(Network).items())
        if cls.__module__.startswith("moonbed.") and not cls.density
    ),
    MLP(hidden=(24,), embedding=Fourier()),
    MLP(hidden=(24,), embedding=GaussianFourier(width=10)),
    Residual(width=12, blocks=2, dropout=0.3, embedding=Fourier(width=4)),
    AdaLN(width=12, blocks=1, expansion=2, embedding=Fourier(width=4)),
    Conservative(network=AdaLN(width=12, blocks=1)),
    Conservative(network=Residual(width=12, blocks=2)),
    Conservative(network=FourierInput(network=SMALL)),
    FourierInput(network=Conservative(network=SMALL), count=5),
]


USED = set()
"""Operations of the tapes that were looked at."""


def apart(module, columns, rows=97):
    """Largest difference of a tape and its module, over the size of what the module puts out."""
    tape = trace(module, columns)
    USED.update(i.op for i in [*tape.head, *tape.body])
    worst = 0.0
    for level in (0.013, 0.4, 0.999, -0.7):
        x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            wanted = module(x, torch.tensor([level])).numpy()
        got = run_tape(tape, x.numpy(), level)
        assert got.dtype == np.float32
        assert got.shape == wanted.shape
        worst = max(worst, float(np.abs(got - wanted).max() / np.abs(wanted).max()))
    return worst


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: str(n).replace("\n", "")[:60])
def test_a_tape_is_its_network(network):
    assert apart(_moved(_built(network, 3)).eval(), 3) < 2e-6 * (20 if "Conservative" in str(network) else 1)


@pytest.mark.parametrize("head", [False, True])
def test_a_network_that_is_told_more(head):
    module = _moved(Conditioned(_built(SMALL, 5), 2, head)).eval()
    assert apart(module, 5) < 2e-6
    assert trace(module, 5).dim == 2


class Module(nn.Module):
    """A module of a stranger: `f` in the place of its forward, with some layers."""

    def __init__(self, f, **layers):
        super().__init__()
        self.f = f
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x, c):
        return self.f(self, x, c)


def activation(layer):
    return Module(lambda m, x, c: m.b(m.act(m.a(x) + c)), a=nn.Linear(2, 7), b=nn.Linear(7, 2), act=layer)


def experts(m, x, c):
    gates = torch.softmax(m.gate(torch.cat([x, c.expand(len(x), 1)], dim=1)), dim=-1)
    outs = m.experts(x).view(len(x), 4, 2)
    return torch.einsum("ne,ned->nd", gates, outs)


def attention(m, x, c):
    tokens = m.embed(x[:, :, None]) + m.place + c
    q, k, v = m.qkv(tokens).chunk(3, dim=-1)
    weights = torch.softmax(q @ k.transpose(1, 2) / 2, dim=-1)
    return m.out((weights @ v).flatten(1))


class Norm(nn.Module):
    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def film(m, x, c):
    scale, shift = m.hyper(torch.stack([c.sin(), c.cos()], dim=-1)).chunk(2, dim=-1)
    return m.b(torch.sin(m.a(x)) * (1 + scale) + shift)


def bumps(m, x, c):
    return m.b(torch.exp(-torch.cdist(x, m.a.weight).square() * (1 + c.square())))


def polar(m, x, c):
    r = torch.linalg.norm(x, dim=-1, keepdim=True)
    return m.a(torch.cat([x / (r + 0.1), r, torch.log1p(r), (r > 1).float(), r.clamp(0.2, 1.5)], dim=1)) * c


def choose(m, x, c):
    h = m.a(x)
    return m.b(torch.where(h > 0, h * c, torch.where(h < -1, -(h.abs() ** 1.5), h**3)))


def convolved(m, x, c):
    return m.out(F.relu(m.conv(m.a(x).view(len(x), 2, 6))).mean(-1) + c)


def in_place(m, x, c):
    h = m.a(x)
    h += c
    h.mul_(2).relu_()
    h[:, 0] = 1.0
    return m.b(h)


def weights_of_the_level(m, x, c):
    return (x[:, None, :] @ m.hyper(c[:, None]).view(1, 2, 2)).squeeze(1)


def lin(a, b):
    return nn.Linear(a, b)


STRANGERS = {
    **{
        type(layer).__name__: activation(layer)
        for layer in (
            nn.ReLU(inplace=True), nn.LeakyReLU(0.2), nn.Softplus(beta=2), nn.GELU(), nn.ELU(), nn.SELU(), nn.Mish(),
            nn.Tanh(), nn.Sigmoid(), nn.SiLU(inplace=True), nn.Hardtanh(), nn.Hardswish(), nn.CELU(0.5),
            nn.LogSigmoid(), nn.Softsign(), nn.Tanhshrink(), nn.ReLU6(), nn.PReLU(7), nn.Softmax(-1), nn.LayerNorm(7),
            nn.GroupNorm(1, 7), nn.BatchNorm1d(7), nn.Dropout(0.5), Norm(), nn.Identity(), nn.LogSoftmax(-1),
        )
    },
    "elu(0.7)": activation(nn.ELU(0.7)),
    "experts": Module(experts, gate=lin(3, 4), experts=lin(2, 8)),
    "attention": Module(
        attention, embed=lin(1, 4), place=nn.Parameter(torch.randn(2, 4)), qkv=lin(4, 12), out=lin(8, 2)
    ),
    "film": Module(film, hyper=lin(2, 12), a=lin(2, 6), b=lin(6, 2)),
    "bumps": Module(bumps, a=lin(2, 9), b=lin(9, 2)),
    "polar": Module(polar, a=lin(6, 2)),
    "choose": Module(choose, a=lin(2, 5), b=lin(5, 2)),
    "convolved": Module(convolved, a=lin(2, 12), conv=nn.Conv1d(2, 3, 3, padding=1), out=lin(3, 2)),
    "in place": Module(in_place, a=lin(2, 5), b=lin(5, 2)),
    "weights of the level": Module(weights_of_the_level, hyper=lin(1, 4)),
    "bilinear": Module(lambda m, x, c: m.a(x, x + c), a=nn.Bilinear(2, 2, 2)),
    "constant": Module(lambda m, x, c: m.a.expand(len(x), 2), a=nn.Parameter(torch.tensor([[0.3, -0.2]]))),
    "of the level": Module(lambda m, x, c: m.a(c[:, None]).expand(len(x), 2), a=lin(1, 2)),
    "columns from the last": Module(lambda m, x, c: torch.stack([x[:, 1], -x[:, 0] * c], dim=1), a=lin(1, 1)),
    "as wide as a tile": Module(lambda m, x, c: m.b(torch.tanh(m.a(x) + c)), a=lin(2, TILE), b=lin(TILE, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGERS)
def test_a_strangers_module(name):
    module = STRANGERS[name].eval()
    if name == "BatchNorm1d":
        module.act.running_mean.normal_(generator=torch.Generator().manual_seed(0))
    assert apart(module, 2) < 5e-6
    assert {
        *UNARY,
        *BINARY,
        "linear",
        "leaky_relu",
        "layer_norm",
        "cat",
        "slice",
        "sum",
        "mean",
        "copy",
        "where",
    } >= USED


REFUSED = {
    "mixes the rows": Module(lambda m, x, c: m.a(x - x.mean(0)), a=lin(2, 2)),
    "sort": Module(lambda m, x, c: m.a(torch.sort(x, dim=1).values) + c, a=lin(2, 2)),
    "cannot write down": Module(lambda m, x, c: m.a(x) if float(x.sum()) > 0 else x, a=lin(2, 2)),
    "other numbers": Module(lambda m, x, c: m.a(x) + torch.rand(1), a=lin(2, 2)),
    "not (n, dim)": Module(lambda m, x, c: m.a(x)[:, 0], a=lin(2, 2)),
    "differently": Module(lambda m, x, c: m.a(x) * torch.arange(len(x))[:, None], a=lin(2, 2)),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_has_no_counterpart_is_said_in_words(words):
    with pytest.raises(Untraceable, match=words.replace("(", r"\(").replace(")", r"\)")):
        trace(REFUSED[words], 2)


def test_the_head_does_not_know_x():
    tape = trace(_moved(_built(MLP(), 2)), 2)
    assert len(tape.body) == 5  # three linear layers and two activations
    of_rows = {tape.x} | {i.out for i in tape.body}
    assert not any(set(i.inputs) & of_rows for i in tape.head)
    assert all(tape.registers[i.out][0] == TILE for i in tape.body)
    assert tape.parameters == sum(p.numel() for p in MLP().build(2).parameters())


def test_a_module_is_left_as_it_was():
    module = _built(Residual(width=8, blocks=1, dropout=0.5), 2).train()
    trace(module, 2)
    assert module.training


def test_bytes_are_stored_once_and_read_back():
    blob, tape = Blob(), trace(_moved(_built(SMALL, 2)), 2)
    data = describe(tape, blob.add)
    size = len(blob)
    assert describe(tape, blob.add) == data
    assert len(blob) == size == len(blob.bytes())
    for (k, place), values in zip(data["constants"], tape.constants.values(), strict=True):
        assert place["offset"] % 8 == 0
        assert np.array_equal(array(place, blob.bytes()), values), k
