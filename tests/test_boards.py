"""Boards: what stands on them, their verdicts, and how they are written."""

import csv
import io
import json
import math

import pytest
from small import METRICS, tiny

from moonbed.component import SpecError
from moonbed.diffusion import Exact
from moonbed.diffusion.counting import Counted
from moonbed.diffusion.samplers import DDIM, RK45, Heun
from moonbed.diffusion.schedules import VE
from moonbed.experiments.board import Board, Filled, fill
from moonbed.experiments.boards import BOARDS, board, within
from moonbed.report import boards as report
from moonbed.rng import Rng
from moonbed.targets.curves import TwoMoons


@pytest.fixture(scope="module")
def small() -> Board:
    """Two rows and two columns; the second row is trained a hundredth as long."""
    good, bad = tiny(training__steps=600), tiny(training__steps=6)
    cells = {
        (row, f"{n}"): experiment.replace(n=n) for row, experiment in (("good", good), ("bad", bad)) for n in (100, 200)
    }
    return Board("small", "Which?", cells, METRICS, "good", across="n", published={("bad", "100"): ".5"})


@pytest.fixture(scope="module")
def filled(small, tmp_path_factory) -> Filled:
    *_, (_, last) = fill(small, seeds=6, draws=3, store=str(tmp_path_factory.mktemp("runs")), device="cpu")
    return last


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_every_board_can_be_built(name):
    found = board(name)
    assert found.name == name
    assert found.reference in found.rows
    assert set(found.published) <= set(found.cells)
    assert len({e.id for e in found.cells.values()}) == len(found.cells), "two cells are one experiment"


@pytest.mark.slow
def test_the_samplers_keep_their_budget():
    found = board("samplers")
    for (row, budget), experiment in found.cells.items():
        if int(budget) > 10 or "diffusers" in row:
            continue
        counted = Counted(Exact(TwoMoons(), experiment.training.schedule))
        noise = Rng(0).stream("noise").normal((4, 2))
        for _ in experiment.sampler.trajectory(counted, noise, Rng(0).stream("s")):
            pass
        assert counted.evaluations <= int(budget), row
        more = within(experiment.sampler.replace(steps=1), int(budget))
        assert more == experiment.sampler, f"{row} could make more steps"


def test_a_budget_is_used_up():
    assert within(DDIM(), 10) == DDIM(steps=9)  # and the denoising at the end
    assert within(Heun(), 10) == Heun(steps=4)
    assert within(Heun(), 2) is None
    assert within(RK45(), 5) is None
    assert within(RK45(), 200).rtol <= 0.1


def test_worse_is_said_to_be_worse(filled):
    metric = METRICS[0].id
    assert filled.verdicts[("bad", "100"), metric] == "worse"
    assert filled.verdicts[("bad", "200"), metric] == "worse"
    assert not [place for place, _ in filled.verdicts if place[0] == "good"]


def test_one_seed_has_no_verdicts(small, tmp_path):
    *_, (_, last) = fill(small.only(["bad"]), seeds=1, draws=2, store=str(tmp_path), device="cpu")
    assert last.verdicts == {}
    assert set(last.results) == set(small.cells)


def test_rows_can_be_chosen(small):
    assert small.only(["bad"]).rows == ["good", "bad"]
    assert small.only([]).rows == ["good"]
    with pytest.raises(SpecError, match="did you mean 'bad'"):
        small.only(["bat"])
    with pytest.raises(SpecError, match="few-steps"):
        board("fewsteps")


def test_tables_hold_floor_spread_verdict_and_what_is_published(filled):
    text = report.board_markdown(filled)
    head, _, floor, good, bad = text.split("\n\n")[1].splitlines()
    assert head == "| sliced W1, n | 100 | 200 |"
    assert floor.startswith("| floor | 0.")
    assert "±" in good
    assert "▼" not in good
    assert "▼ (published .5)" in bad
    assert "6 seeds" in text
    data = json.loads(json.dumps(report.board_json(filled), allow_nan=False))
    assert [(c["row"], c["column"], c["verdict"]) for c in data["cells"]] == [
        ("good", "100", None),
        ("good", "200", None),
        ("bad", "100", "worse"),
        ("bad", "200", "worse"),
    ]
    assert all(c["floor_lo"] < c["floor_hi"] < c["mean"] or c["row"] == "good" for c in data["cells"])
    assert len(list(csv.DictReader(io.StringIO(report.board_csv(filled))))) == 4
    assert [table.row_count for table in report.board_tables(filled)] == [3]


def test_the_command(moonbed, tmp_path):
    changes = ("--seeds", 1, "--draws", 2, "--quiet", "--rows", "fast")
    code, out, err = moonbed("board", "densitis", *changes)
    assert (code, out) == (2, "")
    assert "did you mean 'densities'" in err
    code, out, err = moonbed("list", "boards", "--json")
    assert code == 0
    assert set(json.loads(out)["boards"]) == {"order", *BOARDS}


def test_the_order_of_samplers(moonbed, monkeypatch, tmp_path):
    monkeypatch.setattr("moonbed.laws.natives", lambda: [DDIM(), Heun()])
    code, out, err = moonbed("board", "order", "--quiet", "--json", "--markdown", tmp_path / "order.md")
    assert (code, err) == (0, "")
    ddim, heun = json.loads(out)["cells"]
    assert (ddim["order"], heun["order"]) == (1, 2)
    assert math.isclose(heun["measured"], 2, abs_tol=0.3)
    assert (tmp_path / "order.md").read_text().count("\n") == 4


def test_members_are_named_by_what_is_not_usual():
    assert report.named(DDIM()) == "DDIM"
    assert report.named(DDIM(eta=0.5, steps=3)) == "DDIM steps=3, eta=0.5"
    assert report.named(VE()) == "VE"
