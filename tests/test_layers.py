"""The house: who may import whom, what starts without torch, and how a new file becomes a member."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import moonbed
from moonbed.component import discover

SRC = Path(moonbed.__file__).parent
GROUND = {"component", "rng", "points", "signals", "_lazy", "_shown"}
PILLARS = {"targets", "networks", "diffusion", "metrics"}
TRAINING = {f"experiments.{name}" for name in ("train", "session", "process", "run", "engines")}

ALLOWED = {
    "component": {"_lazy", "_shown"},
    "rng": {"_lazy"},
    "points": {"component", "_lazy"},
    "signals": set(),
    "_lazy": set(),
    "_shown": set(),
    **{pillar: GROUND | {pillar} for pillar in PILLARS},
    "laws": GROUND | PILLARS | {"laws"},
    "experiments": GROUND | PILLARS | {"experiments", ""},
    "export": GROUND | PILLARS | {"experiments", "export", ""},
    "live": GROUND | PILLARS | {"experiments", "live", ""},
    "report": GROUND | PILLARS | {"laws", "experiments", "report", ""},
    "serve": GROUND | PILLARS | {"experiments", "live", "report", "writing", "serve", ""},
}
"""Layer -> the layers of ours that it may import; "" is the package itself. What is not listed may import all."""


def name_of(path):
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Dotted names that a file imports anywhere, those of `from a import b` as a and a.b; relative ones resolved."""
    package = ("moonbed", *path.relative_to(SRC).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
            base = base if node.level else node.module
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in {
            "lazy_import",
            "import_module",
        }:
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    return found


def ours(path):
    """Of these, our own modules that exist, without the leading package name."""
    names = {
        name.removeprefix("moonbed").removeprefix(".") for name in imports(path) if name.split(".")[0] == "moonbed"
    }
    return {name for name in names if not name or name in MODULES}


FILES = sorted(SRC.rglob("*.py"))
MODULES = {name_of(path) for path in FILES}


def layer(name):
    return name.split(".")[0]


def under(*layers):
    return [pytest.param(path, id=name_of(path) or "moonbed") for path in FILES if layer(name_of(path)) in layers]


@pytest.mark.parametrize("path", under(*ALLOWED))
def test_a_layer_imports_what_it_may(path):
    allowed = ALLOWED[layer(name_of(path))]
    # `from moonbed.x import y` also names the package itself
    named = {layer(name) for name in ours(path)}
    assert named <= allowed, f"{name_of(path)} imports {sorted(named - allowed)}"


def test_only_experiments_sees_all_pillars():
    seeing = {layer(name_of(path)) for path in FILES if {layer(n) for n in ours(path)} >= PILLARS}
    assert seeing <= {"experiments"}


@pytest.mark.parametrize("path", under("experiments"))
def test_experiments_draws_and_prints_nothing(path):
    assert not {name for name in imports(path) if layer(name) in {"matplotlib", "rich", "cyclopts"}}


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "storage"], ids=name_of)
def test_the_store_knows_nothing_of_what_is_asked_of_it(path):
    """Configurations, how far a task is, and the name of one file: nothing that trains, samples or makes rows."""
    inner = {name.split(".")[1] for name in ours(path) if name.startswith("experiments.")}
    assert inner <= {"storage", "spec", "engines", "lossfloor"}


@pytest.mark.parametrize("path", under("report"))
def test_a_report_does_not_train(path):
    assert not ours(path) & TRAINING


@pytest.mark.parametrize(
    "path", [p for p in FILES if layer(name_of(p)) != "rng"], ids=lambda p: name_of(p) or "moonbed"
)
def test_randomness_has_one_door(path):
    """Nobody else seeds or draws from a global generator."""
    banned = {"manual_seed", "seed", "randn_like", "rand_like", "set_rng_state"}
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    used = {node.func.attr for node in calls if isinstance(node.func, ast.Attribute)}
    assert not used & banned, f"{sorted(used & banned)}: draw from moonbed.rng"
    assert "random" not in {layer(name) for name in imports(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: name_of(p) or "moonbed")
def test_every_module_opens_with_its_theory(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_the_table_can_fail(tmp_path, monkeypatch):
    """The reader of imports sees every way of importing."""
    monkeypatch.setattr(sys.modules[__name__], "SRC", tmp_path)
    path = tmp_path / "targets" / "bad.py"
    path.parent.mkdir()
    path.write_text(
        "def f():\n    from ..diffusion import schedules\n    import moonbed.metrics.base as b\n"
        "from moonbed import networks\nx = lazy_import('moonbed.experiments')\nfrom . import base\n"
    )
    assert {"diffusion", "diffusion.schedules", "metrics.base", "networks", "experiments", "targets.base"} <= ours(path)


HEAVY = ("torch", "diffusers", "sklearn", "scipy", "matplotlib", "pandas", "ot")
LIGHT = ["moonbed", *(f"moonbed.{name}" for name in sorted(PILLARS))]


def loaded(code):
    code = f"import sys\n{code}\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    return ast.literal_eval(out.stdout)


@pytest.mark.parametrize("module", LIGHT)
def test_importing_costs_no_torch(module):
    assert loaded(f"import {module}") == []


def test_configuring_costs_no_torch():
    code = (
        "from moonbed.component import kinds, members, SpecError\nimport moonbed.experiments\n"
        "for kind in kinds().values():\n    for cls in members(kind).values():\n"
        "        try: cls.parse(cls().spec()).id\n        except SpecError: pass\n"
    )
    assert loaded(code) == []


def test_the_guard_sees_torch():
    assert loaded("import moonbed.targets.base as b; b.torch.float64") == ["torch"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose __init__ discovers its modules, as those of the pillars do."""
    home = tmp_path / "dropped"
    home.mkdir()
    (home / "__init__.py").write_text("from moonbed.component import discover\ndiscover(__name__)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield home
    for name in [n for n in sys.modules if n.split(".")[0] == "dropped"]:
        del sys.modules[name]


def test_a_dropped_file_is_a_member(package):
    from moonbed.component import _REGISTRY, members
    from moonbed.diffusion import Schedule

    (package / "mine.py").write_text(
        "from moonbed.diffusion import Schedule\n\n\nclass Dropped(Schedule):\n"
        "    def alpha(self, t):\n        return 1 - t / 2\n\n    def sigma(self, t):\n        return 0.1 + t\n"
    )
    (package / "_hidden.py").write_text("raise RuntimeError('a module with an underscore is not discovered')\n")
    assert "Dropped" not in members(Schedule)
    try:
        importlib.import_module("dropped")
        assert members(Schedule)["Dropped"].__module__ == "dropped.mine"
        assert "source" in Schedule.parse("Dropped").spec()
        (package / "later.py").write_text("LOADED = True\n")
        importlib.invalidate_caches()
        discover("dropped")
        assert sys.modules["dropped.later"].LOADED
    finally:
        _REGISTRY[Schedule].pop("Dropped", None)


def test_a_file_that_does_not_run_is_not_passed_over(package):
    (package / "broken.py").write_text("raise ZeroDivisionError\n")
    with pytest.raises(ZeroDivisionError):
        importlib.import_module("dropped")
