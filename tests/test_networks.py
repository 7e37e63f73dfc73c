"""Networks: the published sizes, zero at the start, and their formulas by hand."""

import math

import pytest
import torch
from diffusers.models.embeddings import GaussianFourierProjection, get_timestep_embedding
from diffusers.models.normalization import AdaLayerNormZeroSingle
from small import finished, tiny
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn import functional

from moonbed.component import SpecError, members
from moonbed.experiments.train import State
from moonbed.networks import Embedding, Network
from moonbed.networks.adaln import AdaLN
from moonbed.networks.embeddings import Fourier, GaussianFourier, Timestep
from moonbed.networks.mlp import MLP
from moonbed.networks.residual import Residual
from moonbed.networks.wrapped import Conservative, FourierInput
from moonbed.rng import Rng

SMALL = MLP(hidden=(16,))
NETWORKS = [
    *(cls() for cls in members(Network).values() if not cls.density),
    MLP(hidden=(16,), embedding=GaussianFourier(width=8)),
    AdaLN(width=16, blocks=2, embedding=Fourier()),
    Conservative(network=AdaLN(width=16, blocks=1)),
    Conservative(network=FourierInput(network=MLP(hidden=(16, 16)))),
    FourierInput(network=Residual(width=16, blocks=1), count=3, scale=2.0),
]
DENSITIES = [cls() for cls in members(Network).values() if cls.density]
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


def kind(network):
    inner = getattr(network, "network", None)
    return type(network).__name__ + (f"({kind(inner)})" if inner else "")


@pytest.mark.parametrize("network", NETWORKS, ids=kind)
class TestLaws:
    def test_zero_at_the_start(self, network):
        assert build(network)(X, T).abs().max() == 0

    @pytest.mark.parametrize("dim", [1, 2, 3, 8])
    def test_any_dimension(self, network, dim):
        x = Rng(0).stream("x").normal((7, dim))
        out = shaken(network, dim)(x, T)
        assert out.shape == (7, dim)
        assert out.dtype == torch.float32
        assert out.isfinite().all()

    def test_double_precision(self, network):
        module = shaken(network)
        single = module(X, T)
        double = module.double()(X.double(), T.double())
        assert double.dtype == torch.float64
        torch.testing.assert_close(double.float(), single, rtol=1e-3, atol=1e-3 * float(single.detach().abs().max()))

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

    def test_no_gradient_is_kept_where_none_is_wanted(self, network):
        module = shaken(network)
        wanted = module(X, T)
        assert wanted.requires_grad
        for context in (torch.no_grad, torch.inference_mode):
            with context():
                out = module(X, T)
            assert not out.requires_grad
            assert torch.equal(out, wanted.detach())

    def test_a_functional_gradient_is_that_of_autograd_alone_and_stacked(self, network):
        """As trainings are compiled and stacked."""
        module = shaken(network).train()
        weights = dict(module.named_parameters())

        def loss(weights):
            return functional_call(module, weights, (X, T)).square().mean()

        wanted = torch.autograd.grad(loss(weights), list(weights.values()))
        alone = grad(loss)({k: w.detach() for k, w in weights.items()})
        stacked = vmap(grad(loss))({k: torch.stack([w.detach(), 0.5 * w.detach()]) for k, w in weights.items()})
        for name, exact in zip(weights, wanted, strict=True):
            tolerance = {"rtol": 1e-3, "atol": 1e-4 * float(exact.abs().max())}
            torch.testing.assert_close(alone[name], exact, **tolerance)
            torch.testing.assert_close(stacked[name][0], exact, **tolerance)
            assert not torch.allclose(stacked[name][1], exact)

    def test_derivatives_of_the_output_by_the_input(self, network):
        """As likelihoods take them: plain autograd through the module."""
        module, x = shaken(network), X.clone().requires_grad_()
        jacobian = vmap(jacrev(lambda x, c: module(x[None], c[None])[0]))(X, T)
        out = module(x, T)
        for k in range(2):
            (row,) = torch.autograd.grad(out[:, k].sum(), x, retain_graph=True)
            torch.testing.assert_close(row, jacobian[:, k], rtol=1e-3, atol=1e-4 * float(jacobian.detach().abs().max()))

    def test_the_state_dict_is_all_there_is(self, network):
        """Random features are drawn with the weights, and kept with them."""
        module, other = shaken(network), build(network, seed=5)
        other.load_state_dict(module.state_dict())
        assert torch.equal(other(X, T), module(X, T))


@pytest.mark.parametrize("network", DENSITIES, ids=lambda n: type(n).__name__)
class TestDensityLaws:
    @pytest.mark.parametrize("dim", [1, 2, 5])
    def test_any_dimension(self, network, dim):
        x = Rng(0).stream("x").normal((7, dim))
        assert build(network, dim)(x, T).shape == (7,)
        assert build(network, dim).draw(x).shape == (7, dim)

    def test_rows_are_independent(self, network):
        module = build(network)
        rows = torch.cat([module(X[i : i + 1], T[i : i + 1]) for i in range(7)])
        torch.testing.assert_close(module(X, T), rows, rtol=1e-4, atol=1e-5)

    def test_the_noise_level_is_not_looked_at(self, network):
        module = build(network)
        assert torch.equal(module(X, T), module(X, T + 0.1))

    def test_weights_come_from_the_global_generator(self, network):
        a, b, c = (build(network, seed=seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(a[k], b[k]) for k in a)
        assert any(not torch.equal(a[k], c[k]) for k in a)

    def test_the_density_has_mass_one(self, network):
        module, side = build(network), torch.linspace(-8, 8, 321)
        grid = torch.cartesian_prod(side, side)
        with torch.no_grad():
            mass = module(grid, grid.new_zeros(len(grid))).exp().sum() * float(side[1] - side[0]) ** 2
        assert float(mass) == pytest.approx(1, abs=5e-3)

    def test_the_density_is_that_of_the_samples(self, network):
        """log q(x) = log N(z) - log |dx/dz| for the x that z becomes."""
        module, z = build(network, seed=3), Rng(0).stream("z").normal((7, 2))
        x = module.draw(z).detach()
        jacobian = torch.stack(
            [torch.autograd.functional.jacobian(lambda r: module.draw(r[None])[0], row) for row in z]
        )
        wanted = -z.square().sum(1) / 2 - math.log(2 * math.pi) - torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(module(x, T).detach(), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("network", "count"),
    [
        (MLP(), 33_666),
        (MLP(hidden=(128, 128, 128)), 50_178),
        (Residual(), 134_786),
        (Conservative(), 33_666),
        (FourierInput(count=16), 33_666 + 32 * (128 + 129)),
        # embedding; stem; blocks of modulation, two linear layers; last modulation and layer
        (AdaLN(), 8_320 + 192 + 3 * (65 * 192 + 65 * 256 + 257 * 64) + 65 * 128 + 130),
    ],
)
def test_published_sizes(network, count):
    assert sum(p.numel() for p in build(network).parameters()) == count


@pytest.mark.parametrize("embedding", [cls() for cls in members(Embedding).values()], ids=lambda e: type(e).__name__)
def test_embeddings_have_their_width(embedding):
    assert embedding.build()(T).shape == (7, embedding.width)
    assert embedding.replace(width=12).build()(T).shape == (7, 12)


def test_random_frequencies_are_drawn_with_the_weights_and_kept():
    embedding = GaussianFourier(width=2000, scale=3.0)
    frequencies = build_embedding(embedding).state_dict()["frequencies"]
    assert frequencies.shape == (1000,)
    assert float(frequencies.std()) == pytest.approx(3.0, rel=0.1)
    assert not [*build_embedding(embedding).parameters()]
    with pytest.raises(SpecError, match="width"):
        GaussianFourier(width=3)


def test_gaussian_fourier_equals_diffusers_module():
    judge = GaussianFourierProjection(embedding_size=8, log=False, flip_sin_to_cos=True)
    module = build_embedding(GaussianFourier(width=16))
    judge.weight.data = module.frequencies
    torch.testing.assert_close(module(T), judge(T), rtol=1e-4, atol=1e-5)


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


def test_adaln_by_hand_with_the_norm_of_diffusers():
    module = shaken(AdaLN(width=16, blocks=2))
    w, emb = module.state_dict(), module.embedding(T)
    norm = AdaLayerNormZeroSingle(16)

    def linear(name, h):
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    h = linear("stem", X)
    for k in range(2):
        norm.linear.weight.data = w[f"blocks.{k}.modulation.weight"]
        norm.linear.bias.data = w[f"blocks.{k}.modulation.bias"]
        given, gate = norm(h[:, None], emb)  # tokens, of which there is one
        hidden = functional.gelu(linear(f"blocks.{k}.mlp.0", given[:, 0]), approximate="tanh")
        h = h + gate * linear(f"blocks.{k}.mlp.2", hidden)
    shift, scale = linear("modulation", functional.silu(emb)).split(16, dim=1)
    wanted = linear("head", (1 + scale) * functional.layer_norm(h, (16,), eps=1e-6) + shift)
    torch.testing.assert_close(module(X, T), wanted, rtol=1e-4, atol=1e-4)


def test_every_adaln_block_starts_as_the_identity_and_its_gate_moves_first():
    module = build(AdaLN())
    h = Rng(0).stream("h").normal((7, 64))
    for block in module.blocks:
        out = block(h, module.embedding(T))
        assert torch.equal(out, h)
        out.square().sum().backward()
        shift, scale, gate = block.modulation.weight.grad.chunk(3)
        assert shift.abs().max() == scale.abs().max() == 0
        assert gate.abs().max() > 0


@pytest.mark.parametrize("dim", [1, 2, 4])
@pytest.mark.parametrize(
    "inner", [MLP(hidden=(16, 16)), AdaLN(width=16), FourierInput(network=MLP(hidden=(16,)))], ids=kind
)
def test_a_conservative_field_is_the_gradient_of_its_energy(inner, dim):
    module, x = shaken(Conservative(network=inner), dim).double(), Rng(0).stream("x").normal((7, dim), torch.float64)
    h, t = 1e-5, T.double()
    field = module(x, t)
    for k, step in enumerate(h * torch.eye(dim, dtype=torch.float64)):
        slope = (module.energy(x + step, t) - module.energy(x - step, t)) / (2 * h)
        torch.testing.assert_close(slope, field[:, k], rtol=1e-5, atol=1e-5 * float(field.detach().abs().max()))


@pytest.mark.parametrize("network", NETWORKS, ids=kind)
def test_only_conservative_fields_have_a_symmetric_jacobian(network):
    module = shaken(network)
    jacobian = vmap(jacrev(lambda x, c: module(x[None], c[None])[0]))(X, T)
    jacobian = jacobian.detach()
    asymmetry = float((jacobian - jacobian.mT).abs().max() / jacobian.abs().max())
    assert (asymmetry < 1e-5) == isinstance(network, Conservative)


def test_the_energy_is_zero_at_the_origin_and_the_field_there_that_of_the_inner_network():
    module, origin = shaken(Conservative()), torch.zeros(7, 2)
    assert module.energy(origin, T).abs().max() == 0
    torch.testing.assert_close(module(origin, T), module.network(origin, T))


@pytest.mark.parametrize("cls", [Conservative, FourierInput], ids=lambda c: c.__name__)
def test_a_density_is_no_field_to_wrap(cls):
    pytest.importorskip("zuko")
    with pytest.raises(SpecError, match=r"^network: should put out a field .*SplineFlow"):
        cls(network="SplineFlow")


def test_fourier_features_by_hand():
    module = shaken(FourierInput(count=5, scale=0.3, network=MLP(hidden=(16,))))
    waves = 2 * torch.pi * X @ module.directions.T
    out = module.network(torch.cat([X, waves.cos(), waves.sin()], 1), T)
    assert out.shape == (7, 12)
    torch.testing.assert_close(module(X, T), out[:, :2])
    many = build(FourierInput(count=2000, scale=0.3)).directions
    assert float(many.std()) == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize(
    "network",
    [AdaLN(width=16), Conservative(network=MLP(hidden=(16,))), FourierInput(network=MLP(hidden=(16,)))],
    ids=kind,
)
def test_every_network_learns_and_resumes(network):
    training = tiny(training__network=network).training
    state = State(training)
    finished(training, state)
    assert state.log[-1]["loss"] < state.log[0]["loss"]
    other = State(training.replace(seed=1))
    other.load(*state.snapshot())
    assert torch.equal(other.network.eval()(X, T), state.network.eval()(X, T))
    sampled = training.build()
    sampled.load_state_dict(state.weights_for_sampling())
    assert torch.equal(sampled.eval()(X, T), state.network(X, T))
