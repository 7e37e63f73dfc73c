"""The error budget: its parts add up, and planted causes land in their own part."""

import json
import math

import pytest
import scipy.stats
from small import tiny

from moonbed.component import SpecError
from moonbed.experiments import Store, process
from moonbed.experiments.anatomy import PARTS, Anatomy, _above, anatomy, load_anatomy
from moonbed.experiments.engines import Failure
from moonbed.metrics.density import NLL
from moonbed.metrics.model import Girsanov
from moonbed.metrics.two_sample import SlicedW1
from moonbed.report import figures
from moonbed.report.verdicts import anatomy_csv, anatomy_json, anatomy_table

METRICS = (SlicedW1(directions=64), NLL(), Girsanov(points=64, levels=8))


def taken(experiment, tmp_path, metrics=METRICS, **options):
    *_, (_, found) = anatomy(
        experiment, metrics, store=tmp_path, **{"draws": 10, "device": "cpu", "repeats": 3, **options}
    )
    assert isinstance(found, Anatomy), found
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return taken(tiny(sampler__steps=100, n=400), tmp_path_factory.mktemp("anatomy"))


def test_the_parts_add_up(found):
    for label, parts in found.parts.items():
        assert tuple(parts) == PARTS
        causes = sum(parts[name].value for name in ("sampler", "capacity", "estimation"))
        assert causes == pytest.approx(parts["total"].value, abs=1e-9), label
        assert all(part.interval[0] <= part.value <= part.interval[1] for part in parts.values())


def test_the_total_is_the_run_above_the_floor(found):
    links = found.values["sliced W1"]
    mean = sum(links["estimation"]) / 3 - sum(links["floor"]) / len(links["floor"])
    assert found.parts["sliced W1"]["total"].value == pytest.approx(mean)


def test_an_exact_denoiser_has_no_score_error_and_an_untrained_network_much(found):
    parts = found.parts["Girsanov bound"]
    assert abs(parts["sampler"].value) < 1e-9
    assert parts["capacity"].value + parts["estimation"].value > 0.1
    assert all(math.isfinite(end) for end in parts["total"].interval)


def test_too_few_steps_are_the_samplers_error(tmp_path):
    """Two steps of DDIM ruin the exact denoiser's samples; a hundred do not."""
    crude = {"sampler": {"type": "DDIM", "steps": 2}, "n": 400}
    few = taken(tiny(**crude), tmp_path, METRICS[:1]).parts["sliced W1"]["sampler"]
    many = taken(tiny(sampler={"type": "DDIM", "steps": 100}, n=400), tmp_path, METRICS[:1]).parts["sliced W1"][
        "sampler"
    ]
    assert few.interval[0] > 0.1
    assert abs(many.value) < 0.05


def test_what_is_kept_is_not_computed_again(found, tmp_path, monkeypatch):
    experiment = tiny(sampler__steps=10)
    first = taken(experiment, tmp_path)
    monkeypatch.setattr(process, "advance", lambda *a: pytest.fail("trained again"))
    monkeypatch.setattr("moonbed.experiments.anatomy.generate", lambda *a: pytest.fail("sampled again"))
    assert taken(experiment, tmp_path).values == first.values


def test_what_a_stranger_wrote_beside_the_causes_means_nothing(tmp_path):
    """And numbers whose squares are beyond all numbers give an interval that says nothing, not an error."""
    experiment, store = tiny(), Store(tmp_path)
    huge = {name: [1e200, -1e200, 0.0] for name in PARTS[:-1]}
    values = {"a": {**huge, "else": [{}, "x"], "total": None}, "b": {name: [1e-200, 2e-200] for name in PARTS[:-1]}}
    folder = store.experiment(experiment)
    folder.write_json("anatomy.json", {"repeats": 1, "seeds": 1, "values": values, "score_error": {}})
    found = load_anatomy(store, experiment)
    assert found.values["a"] == huge
    assert found.parts["a"]["total"].interval == (-math.inf, math.inf)
    assert found.parts["b"]["total"].value == 0


def test_the_interval_of_a_difference_is_welchs():
    a, b = [1.0, 2.0, 4.0], [0.3, 0.1, 0.9, 0.2, 0.4]
    theirs = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert _above(a, b).interval == pytest.approx((theirs.low, theirs.high), rel=1e-12)


def test_several_seeds_are_several_trainings(tmp_path):
    found = taken(tiny(sampler__steps=10), tmp_path, METRICS[:1], seeds=2, repeats=1)
    assert (found.seeds, found.repeats) == (2, 2)
    assert len(found.values["sliced W1"]["estimation"]) == 2


def test_every_format(found, tmp_path):
    data = json.loads(json.dumps(anatomy_json(found), allow_nan=False))
    assert set(data["metrics"]["sliced W1"]) == set(PARTS)
    assert len(anatomy_csv(found).splitlines()) == 1 + len(PARTS) * len(METRICS)
    assert len(anatomy_table(found).rows) == len(METRICS)
    figures.save(figures.budget(found), tmp_path / "budget.png")
    assert (tmp_path / "budget.png").stat().st_size > 5_000


def test_bad_questions(tmp_path):
    with pytest.raises(SpecError, match="at least 2"):
        taken(tiny(), tmp_path, repeats=1)
    with pytest.raises(SpecError, match="ExactMean already"):
        taken(tiny(training__objective={"type": "Denoising", "regression": "ExactMean"}), tmp_path)


def test_a_training_that_diverges_is_a_failure(tmp_path):
    bad = tiny(training__optimizer={"type": "AdamW", "lr": 1e30}, training__clip=None)
    events = [e for _, e in anatomy(bad, METRICS[:1], store=tmp_path, draws=2, device="cpu")]
    assert isinstance(events[-1], Failure)
    assert "diverged" in events[-1].message
