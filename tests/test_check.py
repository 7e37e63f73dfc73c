"""`moonbed check` and `moonbed run` on anyone's file, and the files that docs/yours.md shows."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from moonbed.cli import main
from moonbed.component import _REGISTRY, SpecError
from moonbed.experiments.plugins import PLACES, components_in, experiments_in, metrics_in
from moonbed.experiments.presets import FAST

PAGE = (Path(__file__).parents[1] / "docs" / "yours.md").read_text(encoding="utf-8")
FILES = {re.match(r"# (\w+\.py)\n", code)[1]: code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)}
RIGHT = [name for name in FILES if name != "mixed_up.py"]
TINY = ["training.steps=20", "n=50", "--draws", "2", "--metrics", "SlicedW1", "--jobs", "1", "--json"]


@pytest.fixture(autouse=True)
def forgotten():
    """What the files of a test define is no member afterwards."""
    before = {kind: dict(family) for kind, family in _REGISTRY.items()}
    yield
    for kind, family in before.items():
        _REGISTRY[kind].clear()
        _REGISTRY[kind].update(family)
    for name in [name for name in sys.modules if name.startswith("moonbed_file_")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """The files of the page, in one folder, whose runs they share."""
    home = tmp_path_factory.mktemp("yours")
    for name, code in FILES.items():
        (home / name).write_text(code, encoding="utf-8")
    return home


@pytest.fixture
def on_shelf(shelf, capsys, monkeypatch):
    monkeypatch.chdir(shelf)

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        return end.value.code, *capsys.readouterr()

    return call


# The page


def test_the_page_shows_one_of_each_kind_in_fifteen_lines(shelf):
    kinds = set()
    for name, code in FILES.items():
        assert sum(bool(line.strip()) and not line.startswith("#") for line in code.splitlines()) <= 15, name
        kinds |= {part.kind().__name__ for part in components_in(shelf / name).values()}
    wanted = {"Target", "Schedule", "Prediction", "Weight", "Times", "Network", "Sampler", "Metric"}
    assert kinds == wanted


@pytest.mark.parametrize("name", RIGHT)
def test_what_the_page_shows_holds(on_shelf, name):
    code, out, err = on_shelf("check", name, "--json", "--quiet")
    found = json.loads(out)
    assert (code, err, found["holds"]) == (0, "", True), [c for c in found["checks"] if not c["holds"]]
    assert {"kind", "member", "law", "holds", "message"} == set(found["checks"][0])


@pytest.mark.parametrize("name", RIGHT)
def test_what_the_page_shows_runs(on_shelf, name):
    code, out, err = on_shelf("run", name, *TINY)
    assert code == 0, err
    rows = json.loads(out)
    (part,) = components_in(name).items()
    kind = part[1].kind().__name__
    names = {"Target": [f"fast, {part[0]}"], "Metric": ["fast"]}.get(kind, ["fast", f"fast, {part[0]}"])
    assert [row["name"] for row in rows] == names
    asked = {"MeanShift", "sliced W1"} if kind == "Metric" else {"sliced W1"}
    assert all(set(row["metrics"]) == asked for row in rows)
    assert all(cell["floor"] for row in rows for cell in row["metrics"].values())


@pytest.mark.slow
def test_what_the_page_prints_is_what_is_printed(on_shelf):
    code, out, _ = on_shelf("check", "mixed_up.py")
    shown = re.search(r"\$ moonbed check mixed_up\.py\n(.*?)```", PAGE, re.DOTALL)[1]
    assert code == 1
    assert shown.split() == out.split()


# Checks


@pytest.fixture
def written(tmp_path):
    def write(text, name="mine.py"):
        (tmp_path / name).write_text(text)
        return name

    return write


SCHEDULE = """
from moonbed import Schedule
class Bent(Schedule):
    power: float{default}
    def alpha(self, t):
        return 1.01 - t
    def sigma(self, t):
        return 0.01 + t**self.power
"""


def test_what_a_broken_file_gets(moonbed, written):
    name = written(SCHEDULE.format(default=" = -1.0"))
    code, out, err = moonbed("check", name)
    assert code == 1
    assert "Bent Schedule" in out
    assert "sigma: of 2001 values 0 are NaN and 1 infinite" in out
    assert "4 laws, 3 broken" in out
    assert err == ""


def test_an_exception_is_reported_with_its_line_and_without_a_traceback(moonbed, written):
    name = written(
        "from moonbed.diffusion import Weight\nclass Odd(Weight):\n    def __call__(self, s, t, c):\n        1/0\n"
    )
    code, out, err = moonbed("check", name, "--json")
    assert code == 1
    assert all(
        re.match(r"ZeroDivisionError: division by zero at .*mine\.py:4", c["message"])
        for c in json.loads(out)["checks"]
    )
    assert "Traceback" not in out + err


def test_ours_by_name(moonbed):
    code, out, _ = moonbed("check", "Cosine", "V", "Independent")
    assert code == 0
    assert "no laws are known for this" in out
    assert "8 laws hold" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check"], "name a Python file, or members"),
        (["check", "Huen"], "no component is called 'Huen'; did you mean 'Heun'?"),
        (["check", "nothing.py"], "no Python file"),
    ],
)
def test_bad_input(moonbed, arguments, said):
    code, _, err = moonbed(*arguments)
    assert code == 2
    assert said in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n", "mine.py: defines no component: no subclass of Target"),
        ("x = (1\n", "mine.py:1: SyntaxError"),
        (
            SCHEDULE.format(default=""),
            "Bent: has no default for power; put one into a variable of the file, as in `mine = Bent(",
        ),
        (
            SCHEDULE.format(default=" = 'no'"),
            "Bent: cannot be built from its defaults (power: input should be a valid number",
        ),
        ("from moonbed import Schedule\nclass Half(Schedule):\n    def alpha(self, t): ...\n", "Half: lacks sigma"),
    ],
)
def test_files_that_cannot_be_checked(moonbed, written, text, said):
    code, out, err = moonbed("check", written(text))
    assert (code, out) == (2, "")
    assert said in err


def test_instances_are_checked_and_defaults_where_there_are_none(tmp_path, written):
    text = "\nfrom moonbed import Experiment, Training\nfrom moonbed.diffusion.schedules import Cosine\n"
    one = SCHEDULE.format(default="") + "mine = Bent(power=2.0)\n"
    assert [*components_in(tmp_path / written(one, "one.py"))] == ["Bent"]
    two = (
        SCHEDULE + text + "a, b = Bent(power=2), Bent(power=3)\nc = [Bent(power=4), Bent(power=2)]\nd = Cosine()\n"
    ).replace("Bent", "Two")
    assert [*components_in(tmp_path / written(two.format(default=""), "two.py"))] == ["a", "b", "c[0]", "Cosine"]
    inside = (SCHEDULE + text + "run = Experiment(training=Training(schedule=Bent(power=2)))\n").replace("Bent", "In")
    assert [*components_in(tmp_path / written(inside.format(default=""), "inside.py"))] == ["In"]


# Trials


MEMBERS = """
from moonbed import Metric
from moonbed.diffusion.schedules import Cosine
from moonbed.diffusion.samplers import Heun
from moonbed.targets.curves import Circles
sampler, schedule = Heun(steps=4), Cosine()
class Zero(Metric):
    def __call__(self, evaluation):
        return 0.0
"""


def test_each_component_takes_the_place_of_its_kind(tmp_path, written):
    path = tmp_path / written(MEMBERS)
    found = experiments_in(path)
    assert list(found) == ["fast", "fast, Heun", "fast, Cosine"]
    assert found["fast"] == FAST
    assert found["fast, Heun"] == FAST.replace(sampler={"type": "Heun", "steps": 4})
    assert found["fast, Cosine"] == FAST.replace(**{"training.schedule": "Cosine"})
    assert [type(metric).__name__ for metric in metrics_in(path)] == ["Zero"]


def test_a_target_is_what_all_are_trained_on(tmp_path, written):
    found = experiments_in(tmp_path / written(MEMBERS + "target = Circles()\n"))
    assert list(found) == ["fast, Circles", "fast, Circles, Heun", "fast, Circles, Cosine"]
    assert {type(e.training.target).__name__ for e in found.values()} == {"Circles"}


def test_a_file_with_experiments_has_these_only(tmp_path, written):
    path = tmp_path / written(MEMBERS + "from moonbed import Experiment\nmine = Experiment(n=50)\n")
    assert list(experiments_in(path)) == ["mine"]
    assert metrics_in(path) == ()


def test_every_kind_has_a_place_or_is_refused(tmp_path, written):
    for kind, place in PLACES.items():
        *way, field = place.split(".")
        owner = FAST
        for name in way:
            owner = getattr(owner, name)
        assert kind in str(get_type_hints(type(owner), include_extras=True)[field])
    path = tmp_path / written(
        "from moonbed import Component\nclass Flavour(Component): ...\nclass Sweet(Flavour): ...\n"
    )
    with pytest.raises(SpecError, match="Sweet: a Flavour has no place in `fast`: put it into an Experiment"):
        experiments_in(path)


def test_a_comparison_names_a_trial_by_its_class(shelf, monkeypatch, tmp_path):
    from moonbed.experiments.named import find_experiment
    from moonbed.experiments.storage.store import Store

    shutil.copy(shelf / "ralston.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    _, found = find_experiment("ralston.py:Ralston", Store(tmp_path))
    assert type(found.sampler).__name__ == "Ralston"
    with pytest.raises(SpecError, match="known: fast, fast, Ralston"):
        find_experiment("ralston.py:Ralstn", Store(tmp_path))
