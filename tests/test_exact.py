"""One-sample metrics against independent computations, their nulls, and what they see."""

import inspect
import math
import re
import sys

import numpy as np
import pytest
import torch
from defects import LAW, defective
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import halfnorm, kstest, kstwo, norm, wasserstein_distance

from moonbed.component import SpecError, members
from moonbed.metrics import Evaluation, Metric, MissingError, kernels, transport
from moonbed.metrics.density import NLL, Exploded, LogDensityKS, ModeWeights, OffSupport
from moonbed.metrics.kernels import KSD, MMDAggregated
from moonbed.metrics.law import known
from moonbed.metrics.neighbours import Coverage, Memorisation, Precision
from moonbed.metrics.panel import Panel
from moonbed.metrics.suites import SUITES
from moonbed.metrics.transport import W1, W2, SlicedW1Law
from moonbed.metrics.two_sample import SlicedW1
from moonbed.rng import Rng
from moonbed.targets.boxes import Checkerboard
from moonbed.targets.mixtures import EightGaussians

ONE_SAMPLE = [NLL(), NLL(statistic="z"), LogDensityKS(), OffSupport(), ModeWeights(), KSD(), MMDAggregated()]


class Normal:
    """The standard normal law of the plane, with its score and nothing else."""

    def sample(self, n, stream):
        return stream.normal((n, 2), torch.float64)

    def log_prob(self, x, alpha=1.0, sigma=0.0):
        v = alpha**2 + sigma**2
        return -(x**2).sum(1) / (2 * v) - math.log(2 * math.pi * v)

    def score(self, x, alpha=1.0, sigma=0.0):
        return -x / (alpha**2 + sigma**2)


NORMAL = Normal()


def value(metric, x, law=LAW, reference=None, seed=0, train=None):
    return metric(Evaluation(x, reference, Rng(seed), law=law, train=train))


def normal(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 2))


@pytest.fixture(params=[None, 7], ids=["one tile", "many tiles"])
def tiles(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(kernels, "_TILE", request.param)


# Against independent computations


def test_log_density_statistics_in_closed_form():
    """Under the normal law of the plane, log p(X) = -log 2 pi - E with an exponential E."""
    x = 1.1 * normal(500)
    energy = (x**2).sum(1) / 2
    assert value(NLL(), x, NORMAL) == pytest.approx(energy.mean() - 1, abs=0.01)
    z = -(energy.mean() - 1) * math.sqrt(500)
    assert value(NLL(statistic="z"), x, NORMAL) == pytest.approx(z, abs=0.2)
    assert value(LogDensityKS(), x, NORMAL) == pytest.approx(kstest(energy, "expon").statistic, abs=0.01)
    assert value(OffSupport(mass=0.1), x, NORMAL) == pytest.approx(np.mean(energy > math.log(10)), abs=0.01)


def test_log_density_ks_of_a_uniform_law_is_the_share_off_it():
    law = Checkerboard()
    x = law.sample(400, Rng(0).stream("x")).numpy()
    assert value(LogDensityKS(), x, law) == value(OffSupport(), x, law) == 0
    x[:40] += 100
    assert value(LogDensityKS(), x, law) == value(OffSupport(), x, law) == 0.1
    assert value(NLL(), x, law) == math.inf


@pytest.mark.parametrize("kind", ["multiquadric", "gaussian"])
@pytest.mark.usefixtures("tiles")
def test_the_stein_kernel_by_automatic_differentiation(kind):
    h2, x = 0.3, defective("none", 9, 1)
    score = known(LAW).score(x)

    def kernel(a, b):
        r2 = ((a - b) ** 2).sum()
        return (1 + r2 / h2) ** -0.5 if kind == "multiquadric" else torch.exp(-r2 / (2 * h2))

    def u(i, j):
        a, b = (torch.tensor(x[k], requires_grad=True) for k in (i, j))
        s, t = (torch.tensor(score[k]) for k in (i, j))
        k = kernel(a, b)
        da, db = torch.autograd.grad(k, (a, b), create_graph=True)
        trace = sum(torch.autograd.grad(da[m], b, retain_graph=True)[0][m] for m in range(2))
        return (s @ t * k + s @ db + t @ da + trace).item()

    pairs = [u(i, j) for i in range(9) for j in range(i)]
    sums, squares = kernels._stein_sums(x, score, (1.0, h2), squares=True)
    column = 1 if kind == "multiquadric" else 3
    assert sums[column, 0] == pytest.approx(sum(pairs), abs=1e-6 * sum(map(abs, pairs)))
    assert squares[column] == pytest.approx(sum(v**2 for v in pairs), rel=1e-6)


@pytest.mark.usefixtures("tiles")
def test_one_sample_mmd_in_closed_form():
    """Normal law: E k(x, X) = h²/(1+h²) exp(-|x|²/(2(1+h²))), E k(X, X') = h²/(2+h²)."""
    x = normal(60) + 0.3
    law = known(NORMAL)
    moments = kernels._kernel_moments(law, 3)
    np.testing.assert_allclose(moments.h, [1, 0.5, 0.25], rtol=0.02)
    for i, h in enumerate(moments.h):
        q = h**2
        assert moments.constant[i] == pytest.approx(q / (2 + q), rel=0.02)
        mean = q / (1 + q) * np.exp(-(x**2).sum(1) / (2 * (1 + q)))
        np.testing.assert_allclose(law.kernel_mean(x, h), mean, rtol=1e-6)
        squared, means = q / (4 + q), (q / (1 + q)) ** 2 * (1 + q) / (3 + q)
        assert moments.sd[i] == pytest.approx(math.sqrt(squared - 2 * means + (q / (2 + q)) ** 2), rel=0.05)
    sums = kernels._kernel_sums(x, moments.h)[:, 0]
    direct = [np.exp(-cdist(x, x, "sqeuclidean") / (2 * h**2)) for h in moments.h]
    np.testing.assert_allclose(sums, [(k.sum() - 60) / 2 for k in direct], rtol=1e-6)
    inner = sums / (60 * 59 / 2)
    terms = [inner[i] - 2 * law.kernel_mean(x, h).mean() + moments.constant[i] for i, h in enumerate(moments.h)]
    expected = np.mean(np.array(terms) / moments.sd) * math.sqrt(60 * 59 / 2)
    assert value(MMDAggregated(widths=3), x, NORMAL) == pytest.approx(expected, abs=1e-5)


def test_kernel_constants_of_a_mixture_are_the_tables():
    ours = known(EightGaussians())
    for h in (0.05, 0.3, 1.0):
        mean = ours.table.mean(ours.kernel_mean(ours.table.x, h))
        assert kernels._constant(ours, h) == pytest.approx(mean, rel=2e-3)


@pytest.mark.usefixtures("tiles")
def test_two_sample_mmd_is_the_double_sum():
    x, y = normal(40), normal(70, 1) * 1.2
    h = math.sqrt(y.var(0).mean()) / 2.0 ** np.arange(3)
    values, sd = kernels._two_sample_mmd(x, y, 3)
    for i, width in enumerate(h):
        kxx, kyy, kxy = (np.exp(-cdist(a, b, "sqeuclidean") / (2 * width**2)) for a, b in ((x, x), (y, y), (x, y)))
        direct = (kxx.sum() - 40) / (40 * 39) + (kyy.sum() - 70) / (70 * 69) - 2 * kxy.mean()
        assert values[i] == pytest.approx(direct, abs=1e-7)
    evaluation = Evaluation(x, y, Rng(0))
    assert MMDAggregated(widths=3)(evaluation) == pytest.approx((values / sd).mean())


@pytest.mark.parametrize("k", [1, 5])
def test_precision_and_coverage_are_their_definitions(k):
    x, y = 1.3 * normal(80), normal(50, 1)
    between, among = cdist(x, y), np.sort(cdist(y, y), axis=1)[:, k]
    inside = between <= among
    assert value(Precision(k=k), x, None, y) == inside.any(1).mean()
    assert value(Coverage(k=k), x, None, y) == inside.any(0).mean()


@pytest.mark.parametrize(("n", "m"), [(60, 60), (40, 40)])
def test_transport_is_the_assignment(n, m):
    x, y = normal(n), normal(m, 1) + 0.5
    for metric, cost in ((W1(), cdist(x, y)), (W2(), cdist(x, y) ** 2)):
        mean = cost[linear_sum_assignment(cost)].mean()
        assert value(metric, x, None, y) == pytest.approx(mean if metric == W1() else math.sqrt(mean), rel=1e-6)


def test_transport_of_a_shift_is_the_shift_and_on_a_line_scipys():
    x = normal(50)
    assert value(W2(), x, None, x + np.array([3, 4])) == pytest.approx(5)
    assert value(W1(), x, None, x + np.array([3, 4])) == pytest.approx(5)
    a, b = x[:, :1], normal(70, 1)[:, :1]
    assert value(W1(), a, None, b) == pytest.approx(wasserstein_distance(a[:, 0], b[:, 0]), rel=1e-6)


def test_transport_in_the_units_of_the_law_as_it_is_described():
    x, y, scale = normal(40), normal(40, 1), LAW.scale.numpy()
    assert value(W2(raw=True), x, LAW, y) == pytest.approx(value(W2(), x * scale, None, y * scale))
    with pytest.raises(MissingError, match=r"W2 raw .W2. needs the exact law"):
        value(W2(raw=True), x, None, y)


def test_transport_takes_some_points_of_many():
    x, y = normal(300), normal(300, 1)
    few = value(W2(points=50), x, None, y)
    assert few == value(W2(points=50), x, None, y)
    assert few != value(W2(points=50), x, None, y, seed=1)
    assert few > value(W2(points=300), x, None, y) == value(W2(), x, None, y)


@pytest.mark.parametrize("dim", [2, 3])
def test_sliced_w1_to_the_law_of_a_shift_is_the_projected_shift(dim):
    """Of N(0, I) and its evenly spread draws moved by d: mean over directions of |<u, d>|."""
    from moonbed.targets.lifted import Lifted

    law = LAW if dim == 2 else Lifted(dim=3)
    ours = known(law)
    d = np.array([0.3, -0.4, 0.5][:dim])
    directions, _ = transport._quantiles(ours, 64)
    got = value(SlicedW1Law(), ours.draws + d, law=law)
    assert got == pytest.approx(np.abs(directions @ d).mean(), rel=1e-3)
    assert value(SlicedW1Law(), ours.draws, law=law) < 1e-9


def test_sliced_w1_to_the_law_agrees_with_many_points_and_has_less_noise():
    x, many = defective("shift .02", 4000, 1), LAW.sample(60_000, Rng(3).stream("many")).numpy()
    assert value(SlicedW1Law(), x) == pytest.approx(value(SlicedW1(), x, reference=many), abs=0.004)
    one, two = (
        [value(metric, defective("none", 500, s), seed=s) for s in range(40)]
        for metric in (SlicedW1Law(), SlicedW1(directions=64))
    )
    assert 0.55 < np.mean(one) / np.mean(two) < 0.85  # 1/sqrt 2


def test_memorisation():
    train, x = defective("none", 3000, 1), defective("none", 2000, 2)
    assert value(Memorisation(), train[:500], train=train) == 0
    assert value(Memorisation(), x, train=train) == pytest.approx(1, abs=0.08)
    x[::10] = train[:200]
    # the median of all is the 4/9 quantile of those not copied; distances are nearly Rayleigh distributed
    assert value(Memorisation(), x, train=train) == pytest.approx(math.sqrt(math.log(9 / 5) / math.log(2)), abs=0.06)


def test_mode_weights_are_counts():
    law = EightGaussians()
    x, labels = law.sample_labelled(400, Rng(0).stream("x"))
    count = np.bincount(labels, minlength=8)
    z = np.abs(count / 400 - 1 / 8).max() / math.sqrt(1 / 8 * 7 / 8 / 400)
    assert value(ModeWeights(), x.numpy(), law) == pytest.approx(z, rel=0.03)
    assert value(ModeWeights(), x.numpy()[labels < 7], law) > 6


def test_exploded():
    x, y = normal(100), normal(100, 1)
    assert value(Exploded(), x, None, y) == 0
    x[:4] = [[math.nan, 0], [math.inf, 0], [1e200, 0], [40.0, 40.0]]
    assert value(Exploded(), x, None, y) == 0.04


# Samples that are not finite


def test_samples_that_are_not_finite():
    x = defective("none", 200, 0)
    for bad in (math.nan, math.inf, 1e200):
        x[3, 1] = bad
        assert value(NLL(), x) == math.inf
        assert value(NLL(statistic="z"), x) == -math.inf
        assert value(OffSupport(), x) >= 1 / 200
        assert value(LogDensityKS(), x) < 0.2
        assert value(ModeWeights(), x) < 4
        for metric in (KSD(), W1(), W2()):
            reference = defective("none", 200, 1)
            expected = math.nan if math.isnan(bad) else math.inf
            assert value(metric, x, reference=reference) == pytest.approx(expected, nan_ok=True)
        assert math.isnan(value(MMDAggregated(), x)) == math.isnan(bad)
        assert 0.9 < value(Precision(), x) < 1
        assert value(Coverage(), x) > 0.7
        assert value(Memorisation(), x, train=defective("none", 200, 2)) < 2
    x[:] = math.nan
    assert value(OffSupport(), x) == value(LogDensityKS(), x) == 1
    assert value(Precision(), x) == value(Coverage(), x) == 0
    assert math.isnan(value(ModeWeights(), x))


@pytest.mark.parametrize("size", [10.0, 1e4, 1e20, 1e60])
def test_exploded_samples_have_values(size):
    x = defective("none", 200, 0)
    x[:3] *= size
    for metric in [*ONE_SAMPLE, Precision(), Coverage(), W1(), Panel()]:
        assert math.isfinite(value(metric, x)), metric


# Under the law


@pytest.fixture(scope="module")
def null():
    """Values of one-sample statistics on 120 draws of 400 exact samples."""
    out = []
    for seed in range(120):
        evaluation = Evaluation(defective("none", 400, seed), None, Rng(seed), law=LAW)
        out.append([metric(evaluation) for metric in ONE_SAMPLE])
    return dict(zip([m.label for m in ONE_SAMPLE], np.array(out).T, strict=True))


def test_standardised_statistics_are_standard_normal_under_the_law(null):
    assert kstest(null["log density z"], norm.cdf).pvalue > 0.01
    assert kstest(null["mode weights |z|"], halfnorm.cdf).pvalue > 0.01
    assert kstest(null["log density KS"], kstwo(400).cdf).pvalue > 0.01
    assert null["off support"].mean() == pytest.approx(1e-3, abs=4 * math.sqrt(1e-3 / 400 / 120))
    _, sd = known(LAW).log_density_moments
    np.testing.assert_allclose(null["NLL - entropy"], -null["log density z"] * sd / 20)


def test_every_kernels_ksd_is_unbiased_and_of_unit_variance(null):
    x = [defective("none", 400, seed) for seed in range(80)]
    law, everyone = known(LAW), np.ones((400, 1), dtype=bool)
    values = [kernels._stein(law, points, law.score(points), (1.0, 0.1, 0.01), everyone)[:, 0] for points in x]
    values = np.array(values)
    np.testing.assert_allclose(values.max(1), null["KSD"][:80])
    assert (np.abs(values.mean(0)) < 4 * values.std(0) / math.sqrt(len(values))).all()
    assert ((values.std(0) > 0.5) & (values.std(0) < 1.6)).all()
    assert 0 < null["KSD"].mean() < 1.2


def test_mmd_is_unbiased_and_of_the_right_size(null):
    values = null["MMD² aggregated"]
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(len(values))
    assert 0.3 < values.std() < 1.2  # a mean of correlated terms of unit variance
    assert 0.4 < np.mean(values < 0) < 0.9


def test_two_sample_mmd_is_standardised_too():
    values = [value(MMDAggregated(), normal(200, 2 * s), None, normal(300, 2 * s + 1)) for s in range(60)]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(60)
    assert 0.3 < np.std(values) < 1.2


@pytest.mark.slow
def test_null_values_at_5000():
    """Precision .9941 (sd .0014), coverage .969 (.004)."""
    values = []
    for seed in range(6):
        evaluation = Evaluation(defective("none", 5000, seed), None, Rng(seed), law=LAW)
        values.append([Precision()(evaluation), Coverage()(evaluation)])
    precision, coverage = np.mean(values, axis=0)
    assert precision == pytest.approx(0.9941, abs=0.0025)
    assert coverage == pytest.approx(0.969, abs=0.006)


# Power


SEES = {
    "noise .045": [NLL(statistic="z"), LogDensityKS(), KSD()],
    "noise .06": [NLL(statistic="z"), LogDensityKS(), OffSupport(), KSD(), MMDAggregated()],
    "bridge": [NLL(statistic="z"), OffSupport()],
    "shift .02": [LogDensityKS(), KSD(), MMDAggregated()],
    "missing end": [MMDAggregated()],
}


@pytest.mark.slow
def test_each_metric_sees_what_it_should():
    """Beyond everything that 6 exact samples of 5,000 give; NLL falls where samples are too sharp."""
    seen = list(dict.fromkeys(m for metrics in SEES.values() for m in metrics))
    floor = {m: [abs(value(m, defective("none", 5000, seed))) for seed in range(6)] for m in seen}
    for defect, metrics in SEES.items():
        x = defective(defect, 5000, 0)
        for metric in metrics:
            assert abs(value(metric, x)) > max(floor[metric]), (defect, metric)
    assert value(NLL(), defective("noise .045", 5000, 0)) < 0 < value(NLL(), defective("noise .06", 5000, 0))
    assert value(NLL(statistic="z"), defective("noise .045", 5000, 0)) == pytest.approx(9.4, abs=3)


# Configuration


@pytest.mark.parametrize(
    ("cls", "fields", "place"),
    [
        (KSD, {"bandwidths": ()}, "bandwidths"),
        (KSD, {"bandwidths": (1, 0)}, "bandwidths"),
        (MMDAggregated, {"widths": 0}, "widths"),
        (OffSupport, {"mass": 1}, "mass"),
        (Memorisation, {"quantile": 1.5}, "quantile"),
        (NLL, {"statistic": "bits"}, "statistic"),
        (W2, {"points": 0}, "points"),
    ],
)
def test_what_cannot_be_is_an_error(cls, fields, place):
    with pytest.raises(SpecError) as error:
        cls(**fields)
    assert error.value.problems[0][0].startswith(place)


def test_too_few_reference_points_for_neighbours():
    with pytest.raises(MissingError, match="more than k = 5"):
        value(Precision(), normal(20), None, normal(5))


def test_which_way_is_better_and_units():
    for metric in SUITES["default"]:
        text = type(metric).__doc__
        assert "Source" in text or "units" in text.lower() or type(metric).__name__ == "Exploded"
        assert "Blind" in text, metric
    two_sided = {m.label for m in SUITES["default"] if m.lower_is_better is None}
    assert two_sided == {"NLL - entropy", "off support", "train distance"}


@pytest.mark.slow
def test_the_default_suite_has_an_answer_to_everything():
    evaluation = Evaluation(defective("none", 5000, 0), None, Rng(0), law=LAW, train=defective("none", 20_000, 1))
    values = {metric.label: metric(evaluation) for metric in SUITES["default"]}
    assert math.isinf(values.pop("N50"))
    assert all(map(math.isfinite, values.values()))


@pytest.mark.parametrize("cls", members(Metric).values(), ids=lambda cls: cls.__name__)
def test_every_metric_states_its_cost_its_blindness_and_its_source(cls):
    """Of what comes with the package; others' metrics answer for themselves."""
    if cls.__module__.startswith("moonbed."):
        text = " ".join(inspect.getdoc(cls).split())
        stated = text + " ".join(inspect.getdoc(sys.modules[cls.__module__]).split())
        assert re.search(r"O\([^)]+\)|\d s |[Cc]ost", text), "cost"
        assert re.search(r"[Bb]lind", text), "what it is blind to"
        assert re.search(r"\b(19|20)\d\d\b", stated), "source"
        assert re.search(r"[Uu]nit|nats|standard errors|standard deviations|samples", text), "unit"
