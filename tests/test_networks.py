"""Networks: the published sizes, zero at the start, and their formulas by hand."""

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch.nn import functional

from moonbed.component import SpecError, members
from moonbed.networks import Embedding, Network
from moonbed.networks.embeddings import Timestep
from moonbed.networks.mlp import MLP
from moonbed.networks.residual import Residual
from moonbed.rng import Rng

NETWORKS = [cls() for cls in members(Network).values()]
X = Rng(0).stream("x").normal((7, 2))
T = Rng(0).stream("t").uniform((7,))


def build(network, dim=2, seed=0):
    with Rng(seed).stream("init").as_global():
        return network.build(dim).eval()


def shaken(network, dim=2):
    """With random weights everywhere, the zero layers too."""
    module = build(network, dim)
    with Rng(1).stream("weights").as_global(), torch.no_grad():
        for p in module.parameters():
            p.normal_(0, 0.3)
    return module


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: type(n).__name__)
class TestLaws:
    def test_zero_at_the_start(self, network):
        assert build(network)(X, T).abs().max() == 0

    @pytest.mark.parametrize("dim", [1, 2, 5])
    def test_any_dimension(self, network, dim):
        x = Rng(0).stream("x").normal((7, dim))
        assert shaken(network, dim)(x, T).shape == (7, dim)

    def test_rows_are_independent(self, network):
        module = shaken(network)
        rows = torch.cat([module(X[i : i + 1], T[i : i + 1]) for i in range(7)])
        torch.testing.assert_close(module(X, T), rows, rtol=1e-4, atol=1e-5)

    def test_one_time_for_all_rows(self, network):
        module = shaken(network)
        torch.testing.assert_close(module(X, T[:1]), module(X, T[:1].expand(7)), rtol=1e-4, atol=1e-5)

    def test_depends_on_both_arguments(self, network):
        module = shaken(network)
        assert not torch.allclose(module(X, T), module(X + 0.1, T))
        assert not torch.allclose(module(X, T), module(X, T + 0.1))

    def test_weights_come_from_the_global_generator(self, network):
        a, b, c = (build(network, seed=seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(a[k], b[k]) for k in a)
        assert any(not torch.equal(a[k], c[k]) for k in a)

    def test_every_weight_is_used(self, network):
        module = shaken(network).train()
        module(X, T).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


@pytest.mark.parametrize(
    ("network", "count"), [(MLP(), 33_666), (MLP(hidden=(128, 128, 128)), 50_178), (Residual(), 134_786)]
)
def test_published_sizes(network, count):
    assert sum(p.numel() for p in build(network).parameters()) == count


@pytest.mark.parametrize("embedding", [cls() for cls in members(Embedding).values()], ids=lambda e: type(e).__name__)
def test_embeddings_have_their_width(embedding):
    assert embedding.build()(T).shape == (7, embedding.width)
    assert embedding.replace(width=12).build()(T).shape == (7, 12)


def test_timestep_equals_diffusers_function():
    module = build_embedding(Timestep())
    wanted = get_timestep_embedding(T * 999, 64, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(module.sinusoids(module.scale * T), wanted, rtol=0, atol=0)
    first, second = module.mlp.linear_1, module.mlp.linear_2
    hidden = functional.silu(wanted @ first.weight.T + first.bias)
    torch.testing.assert_close(module(T), hidden @ second.weight.T + second.bias)


def build_embedding(embedding):
    with Rng(0).stream("init").as_global():
        return embedding.build()


def test_timestep_frequencies_by_hand():
    k = torch.arange(32) / 32
    phase = 999 * T[:, None].double() * 10_000 ** -k.double()
    wanted = torch.cat([phase.cos(), phase.sin()], 1)
    torch.testing.assert_close(build_embedding(Timestep()).sinusoids(999 * T).double(), wanted, rtol=0, atol=2e-4)


def test_mlp_by_hand():
    module = shaken(MLP(hidden=(16, 8)))
    w = module.state_dict()
    h = torch.cat([X, module.embedding(T)], 1)
    for k in (0, 2):
        h = functional.silu(h @ w[f"layers.{k}.weight"].T + w[f"layers.{k}.bias"])
    torch.testing.assert_close(module(X, T), h @ w["layers.4.weight"].T + w["layers.4.bias"])


def test_residual_by_hand():
    module = shaken(Residual(width=16, blocks=2))
    w = module.state_dict()

    def linear(name, h):
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name, h):
        h = (h - h.mean(1, keepdim=True)) / torch.sqrt(h.var(1, correction=0, keepdim=True) + 1e-5)
        return h * w[f"{name}.weight"] + w[f"{name}.bias"]

    emb = module.embedding(T)
    h = linear("stem", X)
    for k in range(2):
        inner = functional.silu(norm(f"blocks.{k}.norm1", h) + linear(f"blocks.{k}.time", emb))
        inner = functional.silu(norm(f"blocks.{k}.norm2", linear(f"blocks.{k}.linear1", inner)))
        h = h + linear(f"blocks.{k}.linear2", inner)
    wanted = linear("head.2", functional.silu(norm("head.0", h)))
    torch.testing.assert_close(module(X, T), wanted, rtol=1e-4, atol=1e-5)


def test_every_residual_block_starts_as_the_identity():
    module = build(Residual())
    h = Rng(0).stream("h").normal((7, 128))
    for block in module.blocks:
        assert torch.equal(block(h, module.embedding(T)), h)


def test_dropout_acts_in_training_only():
    module = shaken(Residual(dropout=0.5))
    assert torch.equal(module(X, T), module(X, T))
    module.train()
    with Rng(2).stream("dropout").as_global():
        a, b = module(X, T), module(X, T)
    with Rng(2).stream("dropout").as_global():
        again = module(X, T)
    assert not torch.equal(a, b)
    assert torch.equal(a, again)
    still = shaken(Residual(dropout=0.0)).train()
    assert torch.equal(still(X, T), still(X, T))


def test_dropout_lies_between_linear_and_norm():
    """Whatever dropout leaves is seen by the second norm alone: zeroing its input gives SiLU(bias) there."""
    module = shaken(Residual(width=16, blocks=1, dropout=0.5))
    block = module.blocks[0]
    block.dropout.register_forward_hook(lambda _, args, out: torch.zeros_like(out))
    h, emb = Rng(0).stream("h").normal((7, 16)), module.embedding(T)
    wanted = h + block.linear2(functional.silu(block.norm2.bias)).expand(7, -1)
    torch.testing.assert_close(block(h, emb), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dropout", [1.0, -0.1, 2])
def test_impossible_dropout_is_refused(dropout):
    with pytest.raises(SpecError, match="dropout"):
        Residual(dropout=dropout)


@pytest.mark.parametrize("hidden", [(0,), (128, -1), "wide", 128])
def test_impossible_layers_are_refused(hidden):
    with pytest.raises(SpecError, match="hidden"):
        MLP(hidden=hidden)


def test_no_hidden_layer_is_a_linear_map():
    assert len(build(MLP(hidden=())).layers) == 1
