"""Anyone's samples: read, recognised, measured and doubted."""

import json
import math

import numpy as np
import pytest
from defects import LAW, draw, standardise

from moonbed.component import SpecError
from moonbed.experiments.judge import Judgement, judge, standardised
from moonbed.metrics.density import OffSupport
from moonbed.metrics.detection import N50
from moonbed.metrics.kernels import KSD
from moonbed.metrics.neighbours import Memorisation
from moonbed.metrics.panel import Panel
from moonbed.metrics.suites import SUITES
from moonbed.metrics.two_sample import SlicedW1
from moonbed.report.verdicts import judgement_json
from moonbed.targets.boxes import Checkerboard
from moonbed.targets.lifted import Lifted
from moonbed.targets.mixtures import EightGaussians

METRICS = (Panel(), N50(), OffSupport(), SlicedW1(directions=16), Memorisation())


def points(n=400, seed=0, **defect):
    return draw(n, np.random.default_rng(seed), **defect)


def judged(x, target=LAW, metrics=METRICS, **options):
    *_, found = judge(x, target, metrics, **{"draws": 19, **options})
    assert isinstance(found, Judgement)
    return found


def test_every_number_has_its_doubt(tmp_path):
    data = judgement_json(judged(points(), store=tmp_path, train=points(1000, 1)))
    assert {"target", "n", "metrics"} <= set(data)
    assert data["target"] == "TwoMoons"
    assert data["n"] == 400
    assert len(data["metrics"]) == len(METRICS)
    for name, cell in data["metrics"].items():
        assert set(cell) >= {"value", "interval", "floor", "p_value"}, name
        assert set(cell["floor"]) >= {"mean", "lo", "hi"}
        assert 0 < cell["p_value"] <= 1
        low, high = cell["interval"]
        if cell["value"] is not None:
            assert low <= cell["value"] <= high, name
    json.dumps(data, allow_nan=False)


def test_a_defect_is_seen_and_said_and_an_exact_sampler_is_not(tmp_path):
    bad, good = judged(points(noise=0.07), store=tmp_path), judged(points(), store=tmp_path)
    assert bad.cells["panel |z|"].p_value == 1 / 20
    assert "arcs" in bad.sentence
    assert "too wide" in bad.sentence
    assert good.cells["panel |z|"].p_value > 0.05
    assert good.sentence == "cannot be told from the exact law at n = 400"


def test_both_coordinates_are_read_alike(tmp_path):
    raw = points()
    own, given = judged(raw, store=tmp_path), judged(standardise(raw), store=tmp_path)
    said = judged(raw, store=tmp_path, coordinates="own")
    assert (own.coordinates, given.coordinates, said.coordinates) == ("own", "standardised", "own")
    for label, cell in own.cells.items():
        assert cell.values == pytest.approx(given.cells[label].values, rel=1e-9), label
        assert cell.values == said.cells[label].values
    assert judged(standardise(raw), store=tmp_path, coordinates="own").sentence != own.sentence


@pytest.mark.parametrize("target", [EightGaussians(), Checkerboard(), Lifted(dim=5)], ids=lambda t: type(t).__name__)
def test_other_targets(target, tmp_path):
    from moonbed.rng import Rng

    x = target.sample(300, Rng(3).stream("x"))
    found = judged(x.numpy() * target.scale.numpy() + target.mean.numpy(), target, (*METRICS, KSD()), store=tmp_path)
    assert "KSD" in (found.lacks if isinstance(target, Checkerboard) else found.cells)
    assert all(cell.p_value >= 0.05 for cell in found.cells.values())


def test_floors_are_drawn_once(tmp_path, monkeypatch):
    first = judged(points(), store=tmp_path)
    monkeypatch.setattr("moonbed.experiments.floors.null_draw", lambda *a: pytest.fail("drawn again"))
    again = judged(points(seed=5), store=tmp_path)
    assert {k: c.floor for k, c in first.cells.items()} == {k: c.floor for k, c in again.cells.items()}


def test_infinite_samples_are_results(tmp_path):
    x = points()
    x[:40] = np.inf
    found = judged(x, store=tmp_path)
    assert found.cells["off support"].values[0] >= 0.1
    assert found.cells["sliced W1"].p_value == 1 / 20
    assert "off the support" in found.sentence


def test_the_fewest_points_that_are_taken_have_values_of_all_default_metrics(tmp_path):
    """Where half of the points are too few there is no interval, and no crash."""
    found = judged(points(10), metrics=SUITES["default"], store=tmp_path, draws=2)
    assert found.cells["precision"].interval == (-math.inf, math.inf)
    assert len(found.cells) == len(SUITES["default"]) - 1


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((50, 3)), r"TwoMoons has points \(n, 2\), given the shape \(50, 3\)"),
        (np.zeros(50), "given the shape"),
        (np.zeros((9, 2)), "too few points: 9"),
        (np.full((50, 2), np.nan), "point 1 is NaN"),
    ],
)
def test_bad_points(x, said):
    with pytest.raises(SpecError, match=said):
        standardised(x, LAW)


def test_what_cannot_be_told_must_be_said():
    with pytest.raises(SpecError, match="say own or standardised"):
        standardised(np.full((50, 2), np.inf), LAW)
    with pytest.raises(SpecError, match="did you mean 'own'"):
        standardised(points(), LAW, "owm")
