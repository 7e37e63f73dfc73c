"""Objects display themselves, in a kernel too; the tutorial runs, and the outputs it is stored with are its own.

`python tests/test_notebook.py` executes the tutorial and stores its outputs.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from small import METRICS, tiny

import moonbed
from moonbed.component import SpecError
from moonbed.experiments.anatomy import Anatomy
from moonbed.experiments.compare import Comparison
from moonbed.experiments.rows import Rows
from moonbed.experiments.storage.folder import StoreError
from moonbed.report import progress
from moonbed.targets.curves import TwoMoons

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"
HOSTILE = "<script>alert(1)</script>"
QUICK = {"metrics": METRICS, "draws": 3, "device": "cpu"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def rows(store):
    return moonbed.measure({HOSTILE: [tiny(), tiny(training__seed=1)], "other": tiny()}, store=store, **QUICK)


@pytest.fixture(scope="module")
def found(store):
    other = tiny(sampler__steps=6)
    return moonbed.compare(tiny(), other, names=(HOSTILE, "other"), seeds=2, store=store, **QUICK)


@pytest.fixture(scope="module")
def budget(store):
    return moonbed.anatomy(tiny(), repeats=2, store=store, **QUICK)


def shown(thing):
    """The HTML of an object, which holds no script and asks nothing of a network."""
    data = thing._repr_mimebundle_()
    assert data["text/html"] == thing._repr_html_()
    assert data["text/plain"].strip()
    text = data["text/html"]
    assert not re.search(r"<script|<link|@import|<iframe| on\w+=|src=\"(?!data:)", text)
    return text


# What is shown


def test_rows_show_every_number_with_its_doubt(rows):
    assert isinstance(rows, Rows)
    cell = rows[0].cells["sliced W1"]
    for said in (shown(rows), repr(rows)):
        assert "sliced W1" in said
        assert "floor" in said
        assert "95 %" in said
        assert f"{cell.floor.lo:.4f} .. {cell.floor.hi:.4f}" in said
        assert f"{cell.p_value:.4f}" in said
        assert "other" in said
    assert "&lt;script&gt;" in shown(rows)


def test_one_row_and_no_rows(rows):
    assert "&lt;script&gt;" in shown(rows[0])
    assert "other" not in repr(rows[0])
    assert shown(Rows()) == "<p>no rows</p>"
    assert repr(Rows()) == "no rows"


def test_rows_become_a_frame(rows):
    frame = rows.to_pandas()
    assert list(frame["row"]) == [HOSTILE, "other"]
    assert {"mean", "interval_lo", "floor_hi", "p_value"} <= set(frame.columns)


def test_a_comparison_shows_its_verdict(found):
    assert isinstance(found, Comparison)
    assert found.verdict in repr(found)
    text = shown(found)
    assert "&lt;script&gt;" in text
    assert "after 2 paired seeds" in text


def test_an_anatomy_shows_picture_and_numbers(budget):
    assert isinstance(budget, Anatomy)
    text = shown(budget)
    assert "<svg" in text
    for cause in ("floor", "sampler", "capacity", "estimation", "total"):
        assert f"<th>{cause}</th>" in text
        assert cause in repr(budget)


def test_a_configuration_is_a_table_of_dotted_names():
    text = shown(moonbed.PRESETS["fast"])
    assert "<code>training.objective.times</code>" in text
    assert "<b><code>900</code></b>" in text  # not the default
    assert "<b><code>512</code></b>" not in text
    assert str(moonbed.PRESETS["fast"]) == moonbed.PRESETS["fast"]._repr_mimebundle_()["text/plain"]


def test_text_in_a_configuration_is_escaped():
    from moonbed.diffusion.diffusers_bridge import Diffusers

    sampler = Diffusers(scheduler="DDPMScheduler")
    object.__setattr__(sampler, "scheduler", HOSTILE)
    assert "&lt;script&gt;" in shown(sampler)


def test_a_law_is_drawn_at_three_noise_levels():
    assert shown(TwoMoons()).count("data:image/png;base64,") == 3
    lifted = moonbed.Target.parse({"type": "Lifted", "target": "TwoMoons", "dim": 5})
    assert "data:image" not in shown(lifted)


def test_every_law_of_the_plane_can_be_drawn(monkeypatch):
    from moonbed.component import members

    monkeypatch.setattr("moonbed.report.notebook.SIDE", 6)
    for member in members(moonbed.Target).values():
        try:
            target = member()
        except (SpecError, TypeError):
            continue
        assert shown(target)


def test_everything_of_every_kind_displays_itself():
    from moonbed.component import kinds, members

    for kind in kinds().values():
        for member in members(kind).values():
            if not member.__module__.startswith("moonbed."):
                continue
            try:
                made = member()
            except SpecError:
                continue
            if not isinstance(made, moonbed.Target):
                assert member.__name__ in shown(made)


# Calls


def test_arms_are_named_as_on_the_command_line(store):
    with pytest.raises(SpecError, match="no preset"):
        moonbed.compare("emma", "ema", store=store)
    with pytest.raises(SpecError, match="no suite"):
        moonbed.anatomy(tiny(), metrics="nothing", store=store)
    same = moonbed.compare(tiny(), tiny(), seeds=2, store=store, **QUICK)
    assert (same.a, same.b, same.verdict) == ("A", "B", "equivalent")


def test_a_failure_is_raised(store):
    bad = tiny(training__optimizer={"type": "AdamW", "lr": 1e30}, training__clip=None)
    with pytest.raises(StoreError, match="diverged"):
        moonbed.anatomy(bad, repeats=2, store=store, **QUICK)


def test_a_page_is_a_path_and_a_link(found, rows, store, monkeypatch):
    monkeypatch.chdir(store)
    page = moonbed.write_report(found, "a page.html", store=store)
    text = Path(page).read_text(encoding="utf-8")
    assert page.size == Path(page).stat().st_size
    assert HOSTILE not in text
    assert 'href="a%20page.html"' in page._repr_html_()
    assert str(page).startswith("a page.html, ")
    frame = page.frame(300)._repr_html_()
    assert "sandbox=" in frame
    assert "<script>" not in frame
    assert moonbed.write_report(rows[0], "one.html", store=store).size > 1_000


def test_a_script_is_not_talked_to(capsys):
    with progress.bars() as bars:
        bars.show("x", progress_event())
    assert capsys.readouterr() == ("", "")


def progress_event(done=1):
    from moonbed.experiments.engines import Progress

    return Progress("train", done, 10, "loss 1")


def test_a_cell_shows_the_stage_and_clears_it(monkeypatch):
    drawn = []

    class Handle:
        def update(self, data, raw):
            drawn.append(data["text/html"])

    def display(data, raw, display_id):
        drawn.append(data["text/html"])
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    with progress.Cell() as cell:
        cell.show(HOSTILE, progress_event())
        cell.show(HOSTILE, progress_event(2))  # too soon after the first
    assert len(drawn) == 2
    assert '<progress max="10" value="1"' in drawn[0]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;: train 1 of 10 loss 1" in drawn[0]
    assert drawn[1] == ""


OWN = '''
import moonbed
from small import METRICS, tiny
from moonbed.diffusion import Sampler


class FromACell(Sampler):
    """One denoising step."""

    def trajectory(self, denoiser, noise, stream):
        yield denoiser(noise, 1.0)


own = tiny(sampler=FromACell())
rows = moonbed.measure({"own": own}, metrics=METRICS, draws=3, device="cpu")
'''


def test_a_module_that_was_imported_is_not_run_again(tmp_path, monkeypatch):
    """Else its classes would be there twice, and the second of a name is refused."""
    from moonbed.experiments.plugins import load_file

    (tmp_path / "imported_idea.py").write_text("value = object()\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("imported_idea")
    assert load_file(tmp_path / "imported_idea.py") is module
    monkeypatch.delitem(sys.modules, "imported_idea")
    assert load_file(tmp_path / "imported_idea.py") is not module


@pytest.mark.slow
def test_a_class_of_the_running_script_can_be_measured(tmp_path):
    (tmp_path / "mine.py").write_text(f"{OWN}\nprint(rows)\n")
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "mine.py"]
    out = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert "sliced W1" in out.stdout


# The kernel


def execute(book, folder):
    """The notebook with the outputs that a kernel gives in that folder; an error in a cell raises."""
    from nbclient import NotebookClient

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    resources = {"metadata": {"path": str(folder)}}
    return NotebookClient(book, timeout=300, kernel_name="python3", resources=resources).execute()


def html_of(cell):
    return "".join(o.data.get("text/html", "") for o in cell.outputs if o.output_type == "execute_result")


@pytest.mark.slow
def test_a_kernel_shows_html(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    sources = [f"{OWN}\nrows", "rows[0]", "own", "own.training.target"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    first, row, experiment, target = execute(book, tmp_path).cells
    assert "floor" in html_of(first)
    assert not [o for o in first.outputs if o.output_type == "stream"]  # no warning, no bar
    assert "sliced W1" in html_of(row)
    assert "FromACell" in html_of(experiment)
    assert "data:image/png" in html_of(target)


# The tutorial


def code_cells(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def digest(cell):
    return hashlib.sha256(cell.source.encode()).hexdigest()[:16]


def test_the_stored_outputs_are_of_these_cells():
    text = TUTORIAL.read_text(encoding="utf-8")
    book = nbformat.reads(text, 4)
    nbformat.validate(book)
    cells = code_cells(book)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.metadata.get("source_digest") == digest(cell) for cell in cells), "run tests/test_notebook.py"
    kinds = {o.output_type for cell in cells for o in cell.outputs}
    assert kinds <= {"execute_result", "display_data", "stream"}
    assert not [o for cell in cells for o in cell.outputs if o.get("name") == "stderr"]
    assert not re.search(r"/(home|root|tmp|work|Users|usr)/", text)
    assert len(text.encode()) < 300_000


def test_the_links_of_the_tutorial_lead_somewhere():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", TUTORIAL.read_text(encoding="utf-8")):
        assert (TUTORIAL.parent / link).exists(), link


LESS = {'"n": 2_000': '"n": 500', "draws=19": "draws=5", "repeats=3": "repeats=2", "seeds=4": "seeds=3"}


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path):
    """Every cell, on a smaller budget; the outputs that are stored are of the whole."""
    book = nbformat.read(TUTORIAL, 4)
    for more, less in LESS.items():
        assert any(more in cell.source for cell in code_cells(book)), more
        for cell in code_cells(book):
            cell.source = cell.source.replace(more, less)
    cells = code_cells(execute(book, tmp_path))
    page = "".join(html_of(cell) for cell in cells)
    for said in ("exact density", "N50", "floor", "Halfway, 8 steps is", "estimation", "report.html"):
        assert said in page
    assert (tmp_path / "report.html").stat().st_size > 10_000
    said = "".join(o.text for cell in cells for o in cell.outputs if o.output_type == "stream")
    assert "holds" in said
    assert "BROKEN" not in said


def refresh():
    """Execute the tutorial in a folder of its own; keep the outputs that stay, not progress and times of execution."""
    book = nbformat.read(TUTORIAL, 4)
    with tempfile.TemporaryDirectory() as folder:
        execute(book, folder)
    for cell in code_cells(book):
        cell.outputs = [o for o in cell.outputs if o.get("data", {}).get("text/html") != ""]
        cell.metadata = {"source_digest": digest(cell)}
    book.metadata.language_info = {"name": "python"}
    nbformat.write(book, TUTORIAL)


if __name__ == "__main__":
    refresh()
