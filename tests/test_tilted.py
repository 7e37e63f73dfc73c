"""The tilted law against the laws of targets, closed forms, another quadrature, and what metrics ask of it."""

import math

import pytest
import torch

from moonbed import laws
from moonbed.component import SpecError
from moonbed.metrics.law import known
from moonbed.rng import Rng
from moonbed.targets import Boxes, BoxMixture, GaussianMixture, Mixture, Target
from moonbed.targets.boxes import Checkerboard
from moonbed.targets.curves import Circles, Pinwheel, SwissRoll, TwoMoons
from moonbed.targets.lifted import Lifted
from moonbed.targets.mixtures import EightGaussians, FortyModes, FractalTree
from moonbed.targets.published import PublishedMoons
from moonbed.targets.quadrature import Quadrature
from moonbed.targets.tilted import Tilt, Tilted


class Line(GaussianMixture):
    """Two overlapping labels of two Gaussians each on a line; not of ours."""

    classes = 2

    def components(self):
        weights, centres = torch.tensor([0.3, 0.2, 0.1, 0.4]), torch.tensor([[-1.5], [0.0], [0.5], [2.0]])
        return Mixture(weights.double(), centres.double(), torch.tensor([[0.5], [0.3], [0.4], [0.6]]).double())


TABLE = [
    Tilted(target=TwoMoons(noise=0.15)),
    Tilted(target=TwoMoons(noise=0.15), guidance=0.5, label=1),
    Tilted(target=Circles(noise=0.15), guidance=4),
    Tilted(target=EightGaussians(), label=2, guidance=0.2),
    Tilted(target=Pinwheel(arms=3, noise=0.2), label=1),
    Tilted(target=FractalTree(depth=2, classes=3), label=2, guidance=4),
    Tilted(target=FortyModes(), label=7, guidance=3),
    Tilted(target=Checkerboard(), label=3),
    Tilted(target=Line(), guidance=2.5),
    Tilted(target=Line(), guidance=0.3, label=1),
    Tilted(target=PublishedMoons(noise=0.3)),
]
SMOOTH = [TwoMoons(noise=0.4), EightGaussians(std=1.5), FractalTree(depth=2, width=0.2), Line()]
NOISE = [0.0, 1e-3, 0.03, 0.2, 1.0, 5.0]


def name(value):
    if isinstance(value, Tilted):
        return f"{type(value.target).__name__}-{value.label}-{value.guidance:g}"
    return getattr(value, "__name__", type(value).__name__)


@pytest.mark.parametrize("law", laws.TARGET_LAWS, ids=name)
@pytest.mark.parametrize("target", TABLE, ids=name)
def test_law(target, law):
    law(target)


def tilt(target, w, label=1):
    """The quadrature, also where `Tilted` knows better."""
    return Tilt(target, target.part(label), float(target.label_weights[label]), w)


def near(law, n, sigma):
    x = law.sample(n, Rng(0).stream("x"))
    return 0.8 * x + sigma * Rng(0).stream("eps").normal(x.shape, torch.float64)


@pytest.mark.parametrize("w", [0, 1])
@pytest.mark.parametrize("target", SMOOTH, ids=name)
def test_no_guidance_is_the_law_and_one_the_label(target, w):
    """By quadrature as by name, at every noise level."""
    wanted = target.given(1) if w else target
    named, found = Tilted(target=target, label=1, guidance=w), tilt(target, w)
    for sigma in NOISE:
        x = near(wanted, 60, sigma)
        assert torch.equal(named.log_prob(x, 0.8, sigma), wanted.log_prob(x, 0.8, sigma))
        laws.close(found.log_prob(x, 0.8, sigma), wanted.log_prob(x, 0.8, sigma), f"log_prob at {sigma}", 1e-7, 1e-7)
        laws.close(found.denoise(x, 0.8, sigma), wanted.denoise(x, 0.8, sigma), f"denoise at {sigma}", 1e-8, 1e-8)
        laws.close(found.score(x, 0.8, sigma), wanted.score(x, 0.8, sigma), f"score at {sigma}", 2e-6, 2e-6)


@pytest.mark.parametrize("w", [0, 0.5, 1, 2, 4])
@pytest.mark.parametrize("target", SMOOTH, ids=name)
def test_the_density_is_the_product_of_powers(target, w):
    law, part = tilt(target, w), target.given(1)
    x = target.sample(100, Rng(0).stream("x"))
    wanted = w * part.log_prob(x) + (1 - w) * target.log_prob(x)
    laws.close(law.log_prob(x) - law.log_prob(x[:1]), wanted - wanted[:1], "differences of log q", 1e-10, 1e-10)


@pytest.mark.parametrize("w", [0.5, 2, 4])
@pytest.mark.parametrize("target", SMOOTH, ids=name)
def test_noise_is_a_mean_over_the_target(target, w):
    """Importance sampling: q_t(x)/p_t(x) and E[x_0] by weights P(label | x_0)^w over the posterior of p at x_t."""
    law, sigma, n = tilt(target, w), 0.4, 100_000
    x_t = near(law, 1, sigma)
    x0 = target.sample(n, Rng(1).stream("x"))
    lost = 0.5 * ((x_t - 0.8 * x0) / sigma).square().sum(1)
    prior = w * (target.given(1).log_prob(x0) - target.log_prob(x0))
    weight = (prior - lost).exp()
    scale = prior.exp().mean()
    spread = 5 * float(weight.std() / weight.mean()) / n**0.5 + 5 * float(prior.exp().std() / scale) / n**0.5
    log_q = torch.log(weight.mean() / scale) - target.dim * math.log(math.sqrt(2 * math.pi) * sigma)
    assert float(law.log_prob(x_t, 0.8, sigma)) == pytest.approx(float(log_q), abs=spread)
    mean = (weight[:, None] * x0).sum(0) / weight.sum()
    assert (law.denoise(x_t, 0.8, sigma)[0] - mean).abs().max() < spread * x0.abs().max()


def test_one_gaussian_of_two_in_closed_form():
    """Far apart, the tilt is the label's own law but for its weight; of equal widths it moves nothing."""
    target = EightGaussians()
    law, part = Tilted(target=target, label=3, guidance=2), target.given(3)
    x = part.sample(50, Rng(0).stream("x"))
    for sigma in NOISE:
        laws.close(law.log_prob(x, 1.0, sigma), part.log_prob(x, 1.0, sigma), "log_prob", 1e-7, 1e-7)


def test_regimes_of_noise_join():
    """Across every change of rule the log density is continuous in the noise, and so is the mean."""
    law = tilt(TwoMoons(noise=0.2), 3)
    h, x = law._quadrature.grid.spacing, near(law, 50, 0.0) / 0.8
    for place in (1.05, 2.15, 4.5, 14.0):
        below, above = place * h * (1 - 1e-9), place * h * (1 + 1e-9)
        laws.close(law.log_prob(x, 1.0, below), law.log_prob(x, 1.0, above), f"at {place} h", 1e-7, 1e-7)
        laws.close(law.denoise(x, 1.0, below), law.denoise(x, 1.0, above), f"at {place} h", 1e-7, 1e-7)


@pytest.mark.parametrize("target", [Tilted(target=FractalTree(depth=2)), Tilted(target=Line())], ids=name)
def test_a_noise_level_for_each_row(target):
    x = target.sample(7, Rng(0).stream("x"))
    alpha = torch.tensor([1.0, 0.9, 0.8, 0.3, 5e-5, 2.0, 1.0], dtype=torch.float64)
    sigma = torch.tensor([0.0, 1e-3, 0.02, 0.1, 1.0, 3.0, 0.01], dtype=torch.float64)
    for f in (target.log_prob, target.denoise, target.score):
        wanted = torch.cat([f(x[[i]], float(alpha[i]), float(sigma[i])) for i in range(7)])
        laws.close(f(x, alpha, sigma), wanted, f.__name__, 1e-9, 1e-9)
    leaf = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(target.log_prob(leaf, alpha, sigma).sum(), leaf)
    laws.close(score[1:], target.score(x, alpha, sigma)[1:], "score = gradient", 1e-6, 1e-6)
    denoised = target.denoise(leaf, alpha, sigma)
    assert torch.autograd.grad(denoised.sum(), leaf)[0].isfinite().all()


def test_a_faster_way_to_fill_the_grid_is_the_same_grid():
    law = tilt(FractalTree(depth=2, width=0.2), 2)
    fast, draws = law._quadrature, law.sample(100, Rng(0).stream("x"))
    slow = Quadrature(law._log_density, draws)
    assert fast.log_z == pytest.approx(slow.log_z, abs=1e-10)
    laws.close(fast.log_prob(draws, 1.0, 0.1), slow.log_prob(draws, 1.0, 0.1), "log_prob", 1e-9, 1e-9)


def test_wide_boxes_of_their_own_are_the_labels_law():
    board = Checkerboard()
    law, part = Tilted(target=board, label=3, guidance=4), board.given(3)
    x = part.sample(50, Rng(0).stream("x"))
    assert torch.equal(law.log_prob(x, 0.8, 0.3), part.log_prob(x, 0.8, 0.3))
    assert torch.equal(Tilted(target=board, guidance=0).log_prob(x), board.log_prob(x))


class Overlapping(Boxes):
    """Two boxes with a part in common; not of ours."""

    classes = 2

    def boxes(self):
        low = torch.tensor([[0.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
        return BoxMixture(torch.tensor([0.5, 0.5], dtype=torch.float64), low, low + 1)


def test_a_density_with_edges_is_refused():
    law = Tilted(target=Overlapping())
    with pytest.raises(SpecError, match="boxes of the labels 0 and 1 overlap"):
        law.log_prob(torch.zeros(1, 2))
    with pytest.raises(SpecError, match="not smooth enough for quadrature"):
        Quadrature(lambda x: -x.abs().sum(1), Rng(0).stream("x").normal((100, 1), torch.float64)).log_z  # noqa: B018


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label": 2}, "label: TwoMoons has the labels 0 to 1, given 2"),
        ({"target": SwissRoll(), "label": 1}, "label: SwissRoll has the labels 0 only, given 1"),
        ({"guidance": -0.5}, "guidance"),
        ({"target": Lifted(dim=3)}, "target: Lifted has 3 dimensions; the law is found by quadrature in at most 2"),
    ],
)
def test_what_cannot_be_is_refused(fields, message):
    with pytest.raises(SpecError, match=message):
        Tilted(**fields)


def test_what_needs_no_quadrature_takes_any_dimension():
    x = Lifted(dim=3).sample(20, Rng(0).stream("x"))
    for w, wanted in ((0, Lifted(dim=3)), (1, Lifted(dim=3).given(0))):
        assert torch.equal(Tilted(target=Lifted(dim=3), guidance=w).log_prob(x), wanted.log_prob(x))
    roll = Tilted(target=SwissRoll(), guidance=3)
    assert torch.equal(roll.log_prob(x[:, :2]), SwissRoll().log_prob(x[:, :2]))


def test_a_lifted_law_in_the_plane_goes_the_general_way():
    law = Tilted(target=Lifted(target=EightGaussians(std=1.5), dim=2, noise=0.3), guidance=3)
    assert law.score(law.sample(5, Rng(0).stream("x")), 1.0, 0.0).isfinite().all()


def test_a_tilt_that_cannot_be_drawn_says_so():
    with pytest.raises(ValueError, match="too strong to be drawn from: 0 of"):
        Tilt(EightGaussians(), EightGaussians().part(0), 1e-9, 5.0).sample(10, Rng(0).stream("x"))
    assert Tilted().sample(0, Rng(0).stream("x")).shape == (0, 2)


def test_spec_round_trip():
    law = Tilted(target=FractalTree(classes=3), label=2, guidance=3)
    assert Target.parse(law.spec()) == law
    assert (law.classes, law.dim) == (1, 2)
    assert torch.equal(law.scale, law.target.scale)


def test_metrics_know_it_as_a_law_with_a_score():
    law = Tilted(target=Line(), guidance=2)
    ours = known(law)
    assert not ours.is_mixture
    assert ours.has_score
    x = law.sample(2000, Rng(0).stream("x"))
    assert float(ours.table.mean(ours.table.x[:, 0])) == pytest.approx(float(x.mean()), abs=0.1)
    assert known(Tilted(guidance=1)).is_mixture
    assert known(Tilted(guidance=0)).mode_names == ("outer moon", "inner moon")
