"""The verdict: on rows whose truth is planted, and on real runs."""

import json
import math

import numpy as np
import pytest
from small import tiny

from moonbed.component import SpecError
from moonbed.experiments.compare import Comparison, compare, judge_difference, looks
from moonbed.experiments.evaluate import Answer
from moonbed.experiments.results import Result
from moonbed.experiments.rows import Cell, Row
from moonbed.metrics.density import NLL, Exploded
from moonbed.metrics.neighbours import Precision
from moonbed.metrics.significance import (
    Floor,
    equivalence_p,
    paired_p,
    seeds_for_difference,
    seeds_for_equivalence,
)
from moonbed.metrics.two_sample import SlicedW1
from moonbed.report.verdicts import comparison_json

METRICS = {"sliced W1": SlicedW1(), "precision": Precision(), "NLL - entropy": NLL()}
CENTRE = {"sliced W1": 0.02, "precision": 0.99, "NLL - entropy": 0.0}


def row(name, values, status="done"):
    """A row from (seeds, metrics) values."""
    results = []
    for k, line in enumerate(values):
        answers = {m.id: Answer(float(v)) for m, v in zip(METRICS.values(), line, strict=True)}
        bad = not np.isfinite(line).all()
        more = {"status": "diverged", "message": "diverged"} if bad else {"status": "done", "answers": answers}
        results.append(Result(tiny(training__seed=k), **more))
    cells = {}
    for label, metric in METRICS.items():
        found = tuple(r.values[metric.id] for r in results if r.status == "done")
        cells[label] = Cell(metric, found, Floor([CENTRE[label]] * 3))
    return Row(name, "", tuple(results), cells)


def arms(seeds, effect, seed=0):
    """Two arms with common noise; B is better by `effect` standard deviations of a pair's difference."""
    rng = np.random.default_rng(seed)
    common, own = rng.normal(size=(seeds, 1)), rng.normal(size=(2, seeds, 3))
    sign = np.array([1, -1, 1])  # less sliced W1, more precision, NLL nearer to 0
    scale, base = np.array([0.01, 0.01, 0.1]), np.array([0.3, 0.6, 2.0])
    a, b = (base + scale * (common + own[k] / math.sqrt(2) + sign * (0, -effect)[k]) for k in (0, 1))
    return row("A", a), row("B", b)


def test_better_and_worse_are_about_b():
    a, b = arms(10, 3.0)
    found = judge_difference(a, b)
    assert found.verdict == "better"
    assert found.more is None
    assert {d.verdict for d in found.differences.values()} == {"better"}
    assert all(d.effect < 0 for d in found.differences.values())
    assert found.sentence.startswith("B is better than A, after 10 paired seeds")
    assert judge_difference(b, a).verdict == "worse"


def test_mixed():
    a, b = arms(12, 4.0)
    cell = b.cells["precision"]
    results = tuple(Result(r.experiment, "done", answers={**r.answers, cell.metric.id: Answer(0.3)}) for r in b.results)
    found = judge_difference(a, Row("B", "", results, b.cells))
    assert found.verdict == "mixed"
    better, worse = found.sentence.split("better in ")[-1].split("; worse in ")
    assert "sliced W1 (Holm p" in better
    assert worse.startswith("precision (Holm p")


def test_the_same_experiment_is_equivalent_to_itself():
    a, _ = arms(3, 0.0)
    assert judge_difference(a, Row("B", "", a.results, a.cells)).verdict == "equivalent"


def test_equivalence_takes_enough_seeds_and_few_say_how_many_more():
    assert judge_difference(*arms(40, 0.0)).verdict == "equivalent"
    few = judge_difference(*arms(4, 0.1))
    assert few.verdict == "cannot tell yet"
    assert 3 <= few.more <= 100
    assert f"about {few.more} more would" in few.sentence


def test_two_seeds_promise_nothing():
    """Two differences are about as large as their spread by chance: what is asked for is enough to show equivalence."""
    found = judge_difference(*arms(2, 1.0))
    assert found.verdict == "cannot tell yet"
    assert 2 + found.more == seeds_for_equivalence(0.0, 1.0)


def test_a_diverged_seed_is_kept_against_its_arm():
    a, b = arms(6, 3.0)
    values = np.array([[r.values.get(m.id, math.nan) for m in METRICS.values()] for r in b.results])
    values[2] = math.nan
    found = judge_difference(a, row("B", values))
    assert found.verdict == "cannot tell yet"
    assert all(d.p == 1 for d in found.differences.values())


@pytest.mark.slow
def test_copies_are_called_different_in_at_most_five_percent():
    """The family-wise level over 300 pairs of equal arms of 5 seeds: 5 % is 15; 26 is 2.9 sd above."""
    verdicts = [judge_difference(*arms(5, 0.0, seed)).verdict for seed in range(300)]
    assert sum(v in ("better", "worse", "mixed") for v in verdicts) <= 26


@pytest.mark.slow
def test_looking_several_times_keeps_the_level():
    plan, false = looks(20), 0
    for seed in range(150):
        a, b = arms(20, 0.0, seed)
        for count in plan:
            cut = [Row(r.name, "", r.results[:count], r.cells) for r in (a, b)]
            if judge_difference(*cut, level=0.05 / len(plan)).verdict in ("better", "worse", "mixed"):
                false += 1
                break
    assert false <= 16  # 5 % is 7.5, sd 2.7


def test_looks():
    assert looks(28) == [4, 6, 9, 14, 21, 28]
    assert looks(3) == [3]


def test_paired_p_is_scipys():
    from scipy.stats import ttest_1samp

    d = [0.1, 0.3, -0.2, 0.5, 0.2]
    assert paired_p(d) == pytest.approx(ttest_1samp(d, 0).pvalue)
    assert paired_p([1.0]) == paired_p([0.0, 0.0]) == paired_p([1.0, math.inf]) == 1
    assert paired_p([2.0] * 5) == 2 / 32


def test_equivalence_holds_its_level_at_the_margin():
    rng = np.random.default_rng(0)
    rejected = np.mean([equivalence_p(rng.normal(1, 1, 11).tolist(), 1) < 0.05 for _ in range(1000)])
    assert 0.03 < rejected < 0.07
    assert equivalence_p([0.0, 0.0], 1) == 0
    assert equivalence_p([1.0, 1.0], 1) == equivalence_p([0.0], 1) == equivalence_p([0.0, math.nan], 1) == 1


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 34), (1, 10), (1.5, 6), (2, 5), (3, 4)])
def test_seeds_for_a_difference_are_the_textbooks(effect, seeds):
    assert seeds_for_difference(effect) == seeds_for_difference(-effect) == seeds


def test_seeds_for_equivalence():
    assert seeds_for_equivalence(0, 1) in (10, 11)
    assert seeds_for_equivalence(0.5, 1) > 25
    assert seeds_for_equivalence(1, 1) == seeds_for_difference(0.0) == math.inf


# Real runs

SMALL = (SlicedW1(directions=16), Exploded())


def ran(a, b, tmp_path, metrics=SMALL, **options):
    events = [e for _, e in compare(("A", a), ("B", b), metrics, store=tmp_path, draws=5, device="cpu", **options)]
    return [e for e in events if isinstance(e, Comparison)]


def test_seeds_are_paired_and_one_that_is_clearly_better_is_found(tmp_path):
    a, b = tiny(training__steps=5), tiny(training__steps=1500, sampler__steps=50)
    (found,) = ran(a, b, tmp_path, seeds=3, level=0.2)
    assert found.seeds == 3
    for r, s in zip(found.rows[0].results, found.rows[1].results, strict=True):
        assert r.experiment.training.seed == s.experiment.training.seed
    data = json.loads(json.dumps(comparison_json(found), allow_nan=False))
    assert data["verdict"] == "better"
    assert len(data["metrics"]["sliced W1"]["a"]) == 3
    assert data["metrics"]["sliced W1"]["floor"]["draws"] == 5
    assert "exploded" in data["metrics"]


def test_until_decided_stops_at_the_first_verdict_and_at_the_cap(tmp_path):
    same = ran(tiny(), tiny(), tmp_path, seeds=20, until_decided=True)
    assert [c.seeds for c in same] == [4]
    assert same[0].verdict == "equivalent"
    capped = ran(tiny(), tiny(sampler__steps=6), tmp_path, seeds=6, until_decided=True, margin=0.01)
    assert capped[-1].seeds <= 6
    assert all(c.level == pytest.approx(0.05 / 2) for c in capped)


def test_what_cannot_be_compared_is_refused(tmp_path):
    with pytest.raises(SpecError, match="at least 2"):
        ran(tiny(), tiny(), tmp_path, seeds=1)
    with pytest.raises(SpecError, match="n: differs"):
        ran(tiny(), tiny(n=50), tmp_path)
    with pytest.raises(SpecError, match="law: differs"):
        ran(tiny(), tiny(training__target="Rings"), tmp_path)
