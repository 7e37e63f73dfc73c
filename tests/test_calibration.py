"""The benchmarks in small: p-values of exact samples are uniform, and every planted defect is seen by something."""

import sys
from pathlib import Path

import numpy as np
import pytest
from defects import DEFECTS, defective
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, kstest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import calibration
import common
import power

from moonbed.metrics.density import NLL, ModeWeights
from moonbed.metrics.neighbours import Memorisation
from moonbed.metrics.significance import Floor
from moonbed.metrics.suites import SUITES
from moonbed.metrics.two_sample import C2ST

TRIALS = FLOOR = 100
RARE = 1e-3
"""Probability of a false alarm that is granted to a whole test, were its seeds not fixed."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with common.single_thread():
        yield


# The instrument


def test_the_distance_is_scipys():
    p = np.random.default_rng(0).random(37)
    assert calibration.distance(p) == pytest.approx(kstest(p, "uniform").statistic)


@settings(max_examples=50, deadline=None)
@given(
    trials=st.lists(st.integers(0, 5), min_size=1, max_size=20),
    floor=st.lists(st.integers(0, 5), min_size=1, max_size=20),
    better=st.sampled_from([True, False, None]),
    seed=st.integers(0, 100),
)
def test_a_randomised_p_value_is_at_most_the_printed_one(trials, floor, better, seed):
    """Ties are what makes the printed one larger."""
    p = calibration.randomised(trials, floor, better, np.random.default_rng(seed))
    printed = np.array([Floor(floor).p_value(float(value), better) for value in trials])
    assert ((p >= 0) & (p <= printed + 1e-12)).all()


@pytest.mark.parametrize("better", [True, False, None])
@pytest.mark.parametrize("values", [1, 2, 5, 10**9])
def test_randomised_p_values_are_uniform_for_any_number_of_values(values, better):
    """A floor of one's own a trial: p-values are independent, and the theory of the distance holds exactly."""
    rng = np.random.default_rng(values)
    draws = rng.integers(values, size=(2000, 20)).astype(float)
    p = [calibration.randomised(row[:1], row[1:], better, rng)[0] for row in draws]
    assert kstest(p, "uniform").pvalue > RARE / 12


def test_many_trials_against_one_floor_have_a_law_of_their_own():
    """About that of a two-sample distance: wider than the theory of independent p-values says, by sqrt(2) here."""
    shape = calibration.shape(TRIALS, FLOOR, two_sided=False)
    assert np.quantile(shape.distances, 0.95) == pytest.approx(1.36 * (1 / TRIALS + 1 / FLOOR) ** 0.5, rel=0.05)
    alone = binom.ppf([0.025, 0.975], TRIALS, 0.05) / TRIALS
    assert shape.share[0] < alone[0]
    assert shape.share[1] > alone[1]


def test_tables_are_markdown():
    assert common.table(["a", "|z|"], [["1", "22"]]) == "| a | \\|z\\| |\n| - | ----- |\n| 1 | 22    |"


# False alarms

CHEAP = tuple(metric for metric in SUITES["default"] if not isinstance(metric, C2ST))


@pytest.fixture(scope="module")
def null():
    return calibration.run(TRIALS, FLOOR, 200, CHEAP)


@pytest.mark.slow
def test_p_values_of_an_exact_sampler_are_uniform(null):
    for row in null["metrics"]:
        assert row["p"] > RARE / len(CHEAP), row
        # the printed p-value never rejects more often than the randomised, whose share has a range by simulation
        assert row["rejected"] <= row["randomised"], row
        assert row["randomised"] < 0.05 + 2 * (row["expected"][1] - 0.05), row


@pytest.mark.slow
def test_the_panels_questions_have_uniform_p_values(null):
    """Independent draws: Kolmogorov's theory, and binomial counts of rejections."""
    questions, draws = null["questions"], TRIALS + FLOOR
    most = binom.ppf(1 - RARE / len(questions), draws, 0.05) / draws
    for row in questions:
        assert row["p"] > RARE / len(questions), row
        assert row["rejected"] <= most, row
    assert null["holm"]["rejected"] <= binom.ppf(1 - RARE, draws, 0.05) / draws


@pytest.mark.slow
def test_a_floor_of_something_else_is_found_out():
    """The same instrument, with samples whose noise is .06 for trials, and with a floor of more points."""
    values = {
        n: [calibration.draw(calibration.Task("trial", k, n, (NLL(),))).values[0] for k in range(60)] for n in (50, 400)
    }
    assert calibration.judge(NLL(), values[400], values[50])["p"] < RARE
    wide = [NLL()(power.planted("noise .06", 400, k)) for k in range(60)]
    found = calibration.judge(NLL(), wide, values[400])
    assert found["p"] < RARE
    assert found["rejected"] > found["expected"][1]


# Power


@pytest.mark.slow
@pytest.mark.parametrize("defect", power.PLANTED[1:])
def test_every_planted_defect_is_seen(defect, few):
    """At n = 5,000, by the panel, the mode weights or the train distance.

    A test of power .95 sees at least 3 of 4 draws with probability .986, one that sees nothing with .0005. For 52/48,
    whose best power is .81, it is 4 of 8: .99 against .0004. By accident one of three passes with three times that.
    """
    draws, least = (8, 4) if defect == "52/48" else (4, 3)
    metrics, floors = few
    seen = dict.fromkeys([power.HOLM, *(m.label for m in metrics)], 0)
    for number in range(draws):
        found = power.draw(power.Task(defect, number, 5000, metrics))
        seen[power.HOLM] += found.holm <= 0.05
        for metric, null, value in zip(metrics, floors, found.values, strict=True):
            seen[metric.label] += null.p_value(value, metric.lower_is_better) <= 0.05
    assert max(seen.values()) >= least, seen


@pytest.fixture(scope="module")
def few():
    """Two metrics that are quick, and their floors of 39 draws: as many as a two-sided p of 0.05 takes."""
    metrics = (ModeWeights(), Memorisation())
    values = [power.draw(power.Task("floor", k, 5000, metrics)).values for k in range(39)]
    return metrics, [Floor(column) for column in np.array(values).T]


def test_copies_are_copies_and_nothing_else():
    evaluation = power.planted(power.COPIES, 500, 0)
    points = {tuple(row) for row in evaluation.train.tolist()}
    copied = [tuple(row) in points for row in evaluation.samples.tolist()]
    assert copied == [True] * 50 + [False] * 450
    assert not np.array_equal(power.planted("none", 50, 0).samples, power.planted("floor", 50, 0).samples)
    assert set(power.PLANTED) - {power.COPIES} <= set(DEFECTS)
    assert np.array_equal(power.planted("bridge", 50, 3).samples, defective("bridge", 50, 1003))


@pytest.mark.slow
def test_the_scripts_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(SUITES, "default", (NLL(), ModeWeights()))
    for script, options in (
        (calibration, ["--trials", "5", "--floor", "5", "--n", "50", "--metrics", "OffSupport"]),
        (power, ["--draws", "2", "--floor", "19", "--n", "50", "--metrics", "OffSupport"]),
    ):
        out = tmp_path / "out.json"
        monkeypatch.setattr(sys, "argv", [script.__name__, *options, "--jobs", "1", "--out", str(out)])
        script.main()
        assert "off support" in capsys.readouterr().out
        assert '"made by"' in out.read_text()
