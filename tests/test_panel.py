"""The panel: informations, calibration, power, attribution, and what it says."""

import math

import numpy as np
import pytest
import torch
from defects import DEFECTS, LAW, defective
from scipy.stats import binom, kstest, norm

from moonbed.metrics import Evaluation, MissingError, panel
from moonbed.metrics.law import KnownLaw, known
from moonbed.metrics.panel import Diagnosis, Estimate, Panel, diagnose
from moonbed.rng import Rng
from moonbed.targets.boxes import Checkerboard
from moonbed.targets.curves import Rings, SwissRoll
from moonbed.targets.lifted import Lifted
from moonbed.targets.mixtures import EightGaussians, FractalTree

NAMES = [
    "shift x",
    "shift y",
    "width",
    "weight outer moon",
    *(
        f"{kind}"
        for moon in ("outer moon", "inner moon")
        for kind in (f"offset {moon}", *(f"density {moon} order {j}" for j in range(1, 5)))
    ),
    "tail",
]


def panel_of(x, law=LAW):
    return diagnose(Evaluation(x, None, Rng(0), law=law))


# The scores themselves


def test_the_fisher_informations_are_those_measured():
    """Shift 199.7 and 211.1, log width 2.03, weight 1.00 (as a difference; as a share 4), offset 199.6."""
    found = dict(panel.questions(known(LAW)))
    assert [*found, "tail"] == NAMES
    assert found["shift x"] == pytest.approx(199.7, rel=0.01)
    assert found["shift y"] == pytest.approx(211.1, rel=0.01)
    assert found["width"] == pytest.approx(2.03, rel=0.01)
    assert found["weight outer moon"] == pytest.approx(4 * 1.00, rel=0.01)
    for moon in ("outer moon", "inner moon"):
        assert found[f"offset {moon}"] == pytest.approx(199.6, rel=0.01)
        angle = [found[f"density {moon} order {j}"] for j in range(1, 5)]
        assert angle == pytest.approx([0.50, 0.49, 0.48, 0.47], abs=0.006)


def bent(question, theta):
    """A mixture bent by theta: the log density of the family, written out."""
    law = known(LAW)
    w, c, s = law.weights.clone(), law.centres.clone(), law.std.clone()
    half, scale = len(w) // 2, torch.from_numpy(law.scale)
    u, weights = torch.from_numpy(law.arcs[0].u), law.weights[:half]
    match question.split():
        case ["shift", axis]:
            c[:, "xy".index(axis)] += theta / scale["xy".index(axis)]
        case ["width"]:
            s *= math.exp(theta)
        case ["weight", *_]:
            w[:half] *= 1 + 2 * theta
            w[half:] *= 1 - 2 * theta
        case ["offset", moon, _]:
            rows = slice(0, half) if moon == "outer" else slice(half, None)
            raw = c[rows] * scale + LAW.mean
            middle = torch.tensor([0.0, 0.0] if moon == "outer" else [1.0, 0.5])
            c[rows] += theta * (raw - middle) / scale
        case ["density", moon, _, _, order]:
            rows, j = slice(0, half) if moon == "outer" else slice(half, None), int(order)
            w[rows] *= 1 + theta * torch.from_numpy(panel._orthonormal(u.numpy(), weights.numpy()))[:, j - 1]

    class Bent:
        mixture = type(LAW.mixture)(w, c, s)
        sample, log_prob = mixture.sample, mixture.log_prob

    return KnownLaw(Bent())


@pytest.mark.parametrize("question", NAMES[:-1])
def test_scores_are_derivatives_of_the_log_density(question):
    x = defective("none", 50, 3)
    column = panel._scores(known(LAW), x)[:, NAMES.index(question)]
    h = 1e-5
    numeric = (bent(question, h).log_density(x) - bent(question, -h).log_density(x)) / (2 * h)
    np.testing.assert_allclose(column, numeric, rtol=1e-3, atol=1e-3 * np.abs(column).max())


def test_polynomials_are_legendres():
    law = known(LAW)
    arc = law.arcs[0]
    ours = panel._orthonormal(arc.u, law.weights[arc.rows].numpy())
    legendre = np.polynomial.legendre.legvander(2 * arc.u - 1, 4)[:, 1:] * np.sqrt([3, 5, 7, 9])
    np.testing.assert_allclose(ours, legendre, atol=5e-3)


@pytest.mark.parametrize("law", [EightGaussians(), Rings(), SwissRoll(), FractalTree(), Lifted(dim=4)], ids=str)
def test_scores_have_mean_zero(law):
    ours = known(law)
    scores = panel._scores(ours, ours.table.x)
    mean = ours.table.mean(scores)
    spread = np.sqrt(ours.table.mean(scores**2))
    error = 0.01 if ours.is_mixture else 5 / math.sqrt(len(ours.draws))
    assert (np.abs(mean) < error * spread).all()


# Under the law


@pytest.fixture(scope="module")
def null():
    return [panel_of(defective("none", 500, seed)) for seed in range(150)]


def test_every_z_is_standard_normal_under_the_law(null):
    z = np.array([[e.z for e in d.estimates[:-1]] for d in null])
    p = [kstest(column, norm.cdf).pvalue for column in z.T]
    assert min(p) > 0.05 / len(p) / 5, dict(zip(NAMES, p, strict=False))
    assert np.abs(z.mean(0)).max() < 4 / math.sqrt(len(z))
    assert np.abs(z.std(0) - 1).max() < 0.25


def test_the_tail_is_a_binomial_count(null):
    mass = panel._null(known(LAW)).mass
    counts = [round(500 * (d["tail"].value / 100 + mass)) for d in null]
    assert np.mean(counts) == pytest.approx(500 * mass, abs=4 * math.sqrt(500 * mass / len(null)))
    for count, d in zip(counts, null, strict=True):
        assert d["tail"].p == pytest.approx(binom.sf(count - 1, 500, mass))


def test_the_panel_rejects_at_its_level(null):
    rejected = sum(bool(d.significant()) for d in null)
    assert rejected <= binom.ppf(0.999, len(null), 0.05)


def test_estimates_and_standard_errors_fit_their_z(null):
    for e in null[0].estimates[:-1]:
        assert e.value / e.se == pytest.approx(e.z, rel=1e-9)
        assert e.p == pytest.approx(2 * norm.sf(abs(e.z)))
        assert e.p_holm >= e.p


@pytest.mark.parametrize(
    "law", [EightGaussians(), Rings(), SwissRoll(), FractalTree(), Lifted(dim=4), Checkerboard()], ids=str
)
def test_other_laws_are_calibrated(law):
    z, falsely = [], 0
    for seed in range(25):
        d = panel_of(law.sample(400, Rng(seed).stream("x")).numpy(), law)
        z.append([e.z for e in d.estimates if e.kind != "tail"])
        falsely += bool(d.significant())
    assert falsely <= 5
    assert kstest(np.ravel(z), norm.cdf).statistic < 0.15
    assert np.abs(np.mean(z, axis=0)).max() < 5 / math.sqrt(25)


# Power and attribution


@pytest.fixture(scope="module")
def found():
    """Defect -> diagnoses of a few draws of 5,000 points."""
    return {name: [panel_of(defective(name, 5000, seed)) for seed in range(4)] for name in DEFECTS}


MAY_TRIP = {
    "noise .045": {"width"},
    "noise .06": {"width", "tail", "offset", "shift"},
    "bridge": {"width", "tail"},
    "52/48": {"weight"},
    "shift .02": {"shift", "width", "tail"},
    "missing end": {"density"},
}


@pytest.mark.parametrize("defect", MAY_TRIP)
def test_a_defect_trips_its_own_questions_only(found, defect):
    """With one false alarm granted among the draws of a defect."""
    tripped = [{e.kind for e in d.significant()} for d in found[defect]]
    assert sum(not kinds <= MAY_TRIP[defect] for kinds in tripped) <= 1, tripped
    if defect != "52/48":  # no test sees it always: the best has a power of .81
        assert all(kinds & MAY_TRIP[defect] for kinds in tripped), tripped


def test_estimates_are_right(found):
    def mean(defect, name):
        return np.mean([d[name].value for d in found[defect]])

    assert mean("noise .045", "width") == pytest.approx(-10, abs=1.5)
    assert mean("noise .06", "width") == pytest.approx(20, abs=3)
    assert mean("shift .02", "shift x") == pytest.approx(0.02, abs=0.003)
    assert mean("shift .02", "shift y") == pytest.approx(0, abs=0.002)
    assert mean("52/48", "weight outer moon") == pytest.approx(2, abs=1.5)
    assert mean("bridge", "tail") == pytest.approx(0.8, abs=0.25)
    assert all(abs(d["shift x"].z) > 15 for d in found["shift .02"])
    missing = [d.significant() for d in found["missing end"]]
    assert sum(all(e.where.startswith("outer moon") for e in es if e.kind == "density") for es in missing) >= 3


def test_the_other_arcs_offset():
    """A third of the noise outwards: seen in that arc alone, with its sign and size."""
    for moon, other, radius in (("outer moon", "inner moon", 1.01), ("inner moon", "outer moon", 0.99)):
        rng = np.random.default_rng(len(moon) + (moon < other))
        a, first = np.pi * rng.random(4000), rng.random(4000) < 0.5
        r = np.where(first == (moon == "outer moon"), radius, 1.0)
        x = np.where(first[:, None], np.c_[r * np.cos(a), r * np.sin(a)], np.c_[1 - r * np.cos(a), 0.5 - r * np.sin(a)])
        x = x + 0.05 * rng.normal(size=x.shape)
        d = panel_of((x - LAW.mean.numpy()) / LAW.scale.numpy())
        assert d[f"offset {moon}"].value == pytest.approx(radius - 1, abs=0.004)
        assert f"offset {moon}" in [e.name for e in d.significant()]
        assert abs(d[f"offset {other}"].z) < 4


def test_exploded_points_are_off_the_support_and_move_nothing_else():
    x = defective("none", 5000, 0)
    before = panel_of(x)
    x[:5] = [[7000, 1], [-1e30, 3], [math.inf, 0], [math.nan, 0], [30, 30]]
    after = panel_of(x)
    assert [e.kind for e in after.significant()] == ["tail"]
    assert after["tail"].value == pytest.approx(before["tail"].value + 0.1, abs=0.021)
    for e, f in zip(before.estimates[:-1], after.estimates[:-1], strict=True):
        assert abs(e.z - f.z) < 0.3
    x[:] = math.nan
    assert panel_of(x)["tail"].value == pytest.approx(99.95, abs=0.01)
    assert math.isfinite(Panel()(Evaluation(x, np.zeros((5, 2)), Rng(0), law=LAW)))


def test_other_laws_are_diagnosed():
    law = EightGaussians()
    x, labels = law.sample_labelled(4000, Rng(0).stream("x"))
    d = panel_of(x.numpy()[labels != 3], law)
    assert d.significant()[0].name == "weight mode 4"
    assert d["weight mode 4"].value == pytest.approx(-12.5, abs=0.5)
    wide = law.replace(std=1.1 * law.std)
    d = panel_of(((wide.sample(4000, Rng(0).stream("x")) * wide.scale + wide.mean - law.mean) / law.scale).numpy(), law)
    assert d["width"].value == pytest.approx(10, abs=2)
    assert d.sentence().startswith("modes 1")
    lifted = Lifted(dim=4)
    x = lifted.sample(4000, Rng(0).stream("x")).numpy()
    assert panel_of(x + np.array([0.02, 0, 0, 0]), lifted)["shift x1"].p_holm < 1e-3
    assert panel_of(x + 0.02 * np.random.default_rng(0).normal(size=x.shape), lifted)["width"].z > 4
    board = Checkerboard()
    x = board.sample(4000, Rng(0).stream("x")).numpy()
    x[:20] *= 3
    assert "off the support" in panel_of(x, board).sentence()


# Words


def test_sentences(found):
    assert found["noise .045"][0].sentence().startswith("arcs ")
    assert "% too thin" in found["noise .045"][0].sentence()
    assert "% of points off the support" in found["bridge"][0].sentence()
    assert "too few points at its beginning" in found["missing end"][0].sentence()
    assert "shifted by 0.0" in found["shift .02"][0].sentence()
    assert "in x" in found["shift .02"][0].sentence()
    quiet = Diagnosis((Estimate("width", "", 1.0, 1.0, 1.0, 0.3, "%", 0.3),), 5000)
    assert quiet.sentence() == "cannot be told from the exact law at n = 5,000"


def test_the_sentence_of_the_brief():
    def estimate(kind, where, value, se):
        return Estimate(kind, where, value, se, value / se, 1e-4, "", 1e-3)

    d = Diagnosis(
        (
            estimate("width", "", -6.2, 1.0),
            estimate("weight", "outer moon", 1.2, 0.3),
            estimate("tail", "", 0.3, 0.1),
            estimate("offset", "inner moon", -0.0132, 0.0021),
            estimate("shift", "y", -0.0201, 0.0010),
        ),
        5000,
        "arcs",
    )
    assert d.sentence() == (
        "shifted by -0.0201 ± 0.0010 in y, inner moon 0.013 ± 0.002 too far in, arcs 6.2 ± 1.0 % too thin, "
        "outer moon 1.2 ± 0.3 points too heavy, 0.30 ± 0.10 % of points off the support"
    )
    assert d.sentence(most=1) == "shifted by -0.0201 ± 0.0010 in y, and 4 more"


def test_names_are_unique_and_lookups_say_what_is_known(found):
    d = found["none"][0]
    assert [e.name for e in d.estimates] == NAMES
    with pytest.raises(KeyError, match="known: shift x"):
        d["shft"]
    with pytest.raises(MissingError, match="panel"):
        diagnose(Evaluation(np.zeros((5, 2)), np.zeros((5, 2)), Rng(0)))


def test_the_metric_is_the_largest_z(found):
    x = defective("shift .02", 5000, 0)
    value = Panel()(Evaluation(x, None, Rng(0), law=LAW))
    assert value == max(abs(e.z) for e in found["shift .02"][0].estimates) > 15
