"""README and docs are code: their Python runs, and what they say of the command line is true."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from moonbed.component import Component
from moonbed.experiments.presets import PRESETS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(page.name, code, id=f"{page.name}-{number}")
    for page in PAGES
    if page.name != "yours.md"  # these are held against the laws as well: tests/test_check.py
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]


def moonbed(*words, cwd):
    return subprocess.run([sys.executable, "-m", "moonbed", *words], cwd=cwd, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "code"), BLOCKS)
def test_python_blocks_run(page, code, tmp_path, monkeypatch, capsys):
    """In this process, but for those with a class, which would stay a member here."""
    name = re.match(r"# (\w+\.py)\n", code)
    if name:  # a file for `moonbed run`, here with a smaller budget
        (tmp_path / name[1]).write_text(code, encoding="utf-8")
        small = ["training.steps=100", "n=50", "--draws", "2", "--jobs", "2", "--json"]
        out = moonbed("run", name[1], *small, cwd=tmp_path)
        assert out.returncode == 0, out.stderr
        assert '"status": "done"' in out.stdout
    elif "class " in code:
        out = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert out.returncode == 0, out.stderr
        assert out.stdout.strip()
    else:
        monkeypatch.chdir(tmp_path)
        exec(compile(code, page, "exec"), {"__name__": "__main__"})
        assert capsys.readouterr().out.strip()


def test_there_are_blocks_to_run():
    assert {"README.md", "c2st.md"} <= {block.values[0] for block in BLOCKS}


def commands():
    for page in PAGES:
        for line in re.findall(r"^(?:    )?(moonbed .*)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            yield shlex.split(line, comments=True)


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_commands_parse(words, tmp_path, monkeypatch):
    """Every command line of the docs is one: what it names exists, and its changes fit the preset."""
    from moonbed.cli import app
    from moonbed.component import parse_overrides

    _, bound, _ = app.parse_args(words[1:], exit_on_error=False, print_error=False)
    preset = PRESETS.get(words[2]) if words[1] == "run" and len(words) > 2 else None
    if preset:
        for changes in parse_overrides(bound.arguments.get("changes", ())):
            assert isinstance(preset.replace(**changes), Component)


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_tree_in_contributing_is_the_tree():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(\w+\.py)\b", text))
    there = {path.name for path in (ROOT / "src").rglob("*.py")} - {"__init__.py"}
    assert there - named <= {name for name in there if name.startswith("_") and name != "_modules.py"}
    assert named - {path.name for path in ROOT.rglob("*.py")} <= {"my_idea.py"}
