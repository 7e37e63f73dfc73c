"""What strangers write is read, shown or refused, and never obeyed: names, messages, files, configurations."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from browser import watched
from hypothesis import given, settings
from hypothesis import strategies as st
from small import METRICS, names_in, tiny

import moonbed
from moonbed._shown import printable
from moonbed.component import LONGEST, SpecError, parse_overrides, shown
from moonbed.experiments import PRESETS, Store, Training, run
from moonbed.experiments.evaluate import stored_samples
from moonbed.experiments.rows import rows
from moonbed.experiments.storage.folder import Folder, StoreError
from moonbed.experiments.storage.runs import load_checkpoint, log_of
from moonbed.experiments.weights import trained
from moonbed.points import PointsError, read_points
from moonbed.report import figures, tables
from moonbed.report.boards import order_markdown
from moonbed.report.page.build import fragment
from moonbed.report.page.build import page as page_of
from moonbed.report.terminal import text_of

SRC = Path(moonbed.__file__).parent
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m"
NAMES = (
    "<script>document.title='owned'</script>",
    "</script><script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "[red]x[/red] [/] [link=http://evil.example]y[/link]",
    f"a{ESCAPES}b",
    "a\u2028b\u2029c",
    "\u202egpj.exe\u2066\u200f",
    '=HYPERLINK("http://evil.example")',
    "@SUM(1)",
    r"\input{/etc/passwd} \write18{id}",
    "[x](javascript:alert(1)) ![y](http://evil.example/y.png)",
    "a | b `c` \\",
    "$\\foo$ $$ \\frac{",
    "line\n\n# heading\r\n| x |",
    "nul\x00 half \ud800",
    "-->]]><!--",
)
EXPERIMENT = tiny()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A store with one small experiment, and its result."""
    store = Store(tmp_path_factory.mktemp("store"))
    return store, run([EXPERIMENT], metrics=METRICS, store=store, device="cpu")


def named(results, name: str):
    """A table whose row, change and message are what somebody chose."""
    import dataclasses

    store, found = results
    lost = dataclasses.replace(found[0], status="diverged", message=name)
    (row,) = rows({name: found}, METRICS, store, changes={name: name})
    (other,) = rows({f"{name} 2": [lost]}, METRICS, store, changes={})
    return [row, other]


# Configurations


def nested(depth: int) -> dict:
    spec = PRESETS["ddpm"].training.spec()
    for _ in range(depth):
        spec = {**spec, "teacher": spec}
    return spec


HOSTILE = {
    "teachers of teachers": lambda: Training.parse(nested(500)),
    "a million fields": lambda: Training.parse({f"f{k}": k for k in range(10**6)}),
    "a million digits": lambda: Training.parse('{"steps": ' + "9" * 10**6 + "}"),
    "an integer of Python's": lambda: Training.parse({"steps": 10**10_000}),
    "an integer for a float": lambda: Training.parse({"clip": 10**400}),
    "brackets": lambda: Training.parse('{"steps":' + "[" * 10**6),
    "objects": lambda: Training.parse('{"target":' * 10**5 + "1" + "}" * 10**5),
    "brackets in a change": lambda: EXPERIMENT.replace(**{"training.steps": "[" * 10**5}),
    "a name twice": lambda: Training.parse('{"steps": 1, "steps": 2}'),
    "a name of megabytes": lambda: Training.parse("x" * 10**7),
    "a list of everything": lambda: Training.parse({"network": {"type": "MLP", "hidden": [1] * (LONGEST + 1)}}),
    "a list of wrong things": lambda: Training.parse({"network": {"type": "MLP", "hidden": ["x"] * LONGEST}}),
    "NaN": lambda: Training.parse('{"clip": NaN}'),
    "beyond infinity": lambda: Training.parse('{"clip": 1e400}'),
    "half a character": lambda: Training.parse({"target": {"type": "Points", "file": "\ud800.csv"}}),
    "no character": lambda: Training.parse({"target": {"type": "Points", "file": "\x00.csv"}}),
    "a device": lambda: Training.parse({"target": {"type": "Points", "file": "/dev/zero"}}),
    "a type that is no name": lambda: Training.parse({"target": {"type": {}}}),
    "a look-alike": lambda: Training.parse({"target": "Tw\u043eMoons"}),
    "a sweep of a billion": lambda: parse_overrides([f"a{k}=1,2" for k in range(30)]),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_configuration_that_cannot_be_is_an_error_of_a_few_lines(what):
    with pytest.raises(SpecError) as error:
        HOSTILE[what]()
    assert len(str(error.value)) < 20_000
    assert len(error.value.problems) < 30


def test_a_chain_of_teachers_of_some_length_is_a_configuration():
    with pytest.raises(SpecError, match="nested more than 64 deep"):
        Training.parse(nested(100))
    with pytest.raises(SpecError) as error:
        Training.parse(nested(20))
    assert "nested" not in str(error.value)  # but what an objective without a teacher says of one


@given(
    st.recursive(
        st.none() | st.text() | st.integers() | st.floats(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
def test_what_was_given_is_shown_on_a_short_line(value):
    assert len(shown(value)) < 5_000
    shown(value).encode()


def test_what_cannot_be_shown_is_shown_by_its_type():
    deep: list = []
    for _ in range(10_000):
        deep = [deep]
    assert len(shown(deep)) < 100
    assert shown(10**10_000) == "a value of type int"


# A store


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../../x": "0" * 64}},
        {"files": {"/dev/zero": "0" * 64}},
        {"files": {".lock": "0" * 64}},
        {"files": {"weights.safetensors": "x"}},
        {"files": None},
        {"status": "fine"},
        {"seconds": "<b>"},
        {"parameters": -1},
        {"step": 1e300},
        {"versions": [1]},
        {"message": {}},
    ],
    ids=str,
)
def test_a_record_holds_what_a_record_holds_whoever_sealed_it(tmp_path, change):
    folder = Folder(tmp_path / "x")
    folder.write_json("record.json", {"status": "done", "files": {}, **change})
    with pytest.raises(StoreError, match="is damaged"):
        folder.record()


def test_a_list_of_runs_leaves_out_what_is_no_metric(results, tmp_path):
    import shutil

    from moonbed.experiments.listing import listed

    shutil.copytree(results[0].root, tmp_path / "copy")
    store = Store(tmp_path / "copy")
    folder = store.experiment(EXPERIMENT)
    for name in folder.names("metrics/*.json"):
        folder.write_json(name, {"metric": 7, "value": 1.0})
    assert [line.values for line in listed(store, values=True).lines] == [{}]


@pytest.mark.parametrize("name", ["/dev/zero", "../checkpoint", "a/b", "", "."])
def test_a_checkpoint_is_a_file_of_its_folder(tmp_path, name):
    folder = Folder(tmp_path / "x")
    pointer = {"file": name, "sha256": "0" * 64, "step": 1, "log": [], "seconds": 0.0}
    folder.write_json("checkpoint.json", pointer)
    with pytest.raises(StoreError, match="is damaged"):
        load_checkpoint(folder)


@pytest.mark.parametrize("prefix", ["", "..", "/", "*", "**", "a/b", "[a", "\x00", "/etc"])
def test_an_id_is_no_pattern_and_no_path(results, prefix):
    assert results[0].find(prefix) == []


def test_a_pipe_in_a_store_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "record.json")
    os.mkfifo(tmp_path / "x.csv")
    with pytest.raises(StoreError, match="device or a pipe"):
        Folder(tmp_path).record()
    with pytest.raises(PointsError, match="device or a pipe"):
        read_points(tmp_path / "x.csv")


def swapped(results, tmp_path, name: str, data: bytes) -> Store:
    """A copy of the store in which a file is another, with its right checksum."""
    import hashlib
    import shutil

    shutil.copytree(results[0].root, tmp_path / "copy")
    store = Store(tmp_path / "copy")
    folder = store.experiment(EXPERIMENT) if name.endswith(".npy") else store.training(EXPERIMENT.training)
    record = folder.record() or {}
    folder.write(name, data)
    record["files"][name] = hashlib.sha256(data).hexdigest()
    folder.write_json("record.json", record)
    return store


def npy(array) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


HUGE = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 2), }".ljust(117)
    + b"\n"
)
SAMPLES = {
    "pickle": npy(np.array([[{}, {}]], dtype=object)),
    "other shape": npy(np.zeros((7, 2))),
    "integers": npy(np.zeros((EXPERIMENT.n, 2), int)),
    "a header of terabytes": HUGE,
    "no header": b"\x93NUMPY\x01\x00v\x00{{{{",
    "empty": b"",
}


@pytest.mark.parametrize("what", SAMPLES)
def test_samples_are_a_table_of_their_experiment(results, tmp_path, what):
    store = swapped(results, tmp_path, "samples.npy", SAMPLES[what])
    with pytest.raises(StoreError, match=r"samples\.npy"):
        stored_samples(store.experiment(EXPERIMENT), EXPERIMENT)


def test_weights_are_those_of_their_network(results, tmp_path):
    from safetensors.numpy import save

    from moonbed.experiments.evaluate import network_of

    with pytest.raises(StoreError, match="is no safetensors file"):
        trained(swapped(results, tmp_path, "weights.safetensors", b"\xff" * 100), EXPERIMENT.training)
    other = swapped(results, tmp_path / "b", "weights.safetensors", save({"x": np.zeros(3)}))
    with pytest.raises(StoreError, match="is damaged"):
        network_of(EXPERIMENT.training, trained(other, EXPERIMENT.training) or {})


@pytest.mark.parametrize(
    "text", [b"\xff", b"{}", b"[" * 5000, b'{"step": "1", "loss": 1}', b'{"step": 1, "loss": "x"}']
)
def test_a_log_is_lines_of_numbers(results, tmp_path, text):
    store = swapped(results, tmp_path, "log.jsonl", text)
    with pytest.raises(StoreError, match=r"log\.jsonl"):
        log_of(store.training(EXPERIMENT.training))


def test_a_small_file_holds_no_large_table(tmp_path, monkeypatch):
    import torch

    from moonbed import points

    monkeypatch.setattr(points, "MOST", 10_000)
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((1000, 2)))
    torch.save(torch.zeros(1).expand(10**6, 10**4), tmp_path / "x.pt")
    for name, message in (("x.npz", "when unpacked"), ("x.pt", "over one another")):
        with pytest.raises(PointsError, match=message):
            read_points(tmp_path / name)


# Names in what is shown


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_terminal_obeys_no_name(results, name):
    table = named(results, name)
    text = text_of(tables.to_terminal(table, list(table[0].cells)), 140)
    assert text == printable(text)
    assert "\x1b" not in text
    text.encode()


@given(st.text(max_size=40))
@settings(max_examples=40, deadline=None)
def test_any_text_can_be_a_name(results, name):
    table = named(results, name)
    labels = list(table[0].cells)
    text_of(tables.to_terminal(table, labels), 140).encode()
    for line in csv.DictReader(io.StringIO(tables.to_csv(table))):
        assert not line["row"].startswith(("=", "+", "-", "@", "\t", "\r"))
    assert len(tables.to_markdown(table, labels).splitlines()) == len(
        tables.to_markdown(named(results, "a"), labels).splitlines()
    )
    tables.to_latex(table, labels).encode()
    json.loads(json.dumps(tables.to_json(table)))


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_table_in_a_file_has_no_name_that_does_anything(results, name):
    table = named(results, name)
    labels = list(table[0].cells)
    latex, markdown = tables.to_latex(table, labels), tables.to_markdown(table, labels)
    assert not re.search(r"\\(?:input|write|foo|frac)", latex)
    assert "\x1b" not in latex + markdown + tables.to_csv(table)
    for text in (markdown, order_markdown([ORDER | {"sampler": name, "words": name}])):
        assert "<" not in re.sub(r"&lt;", "", text)
        assert not re.search(r"(?<!\\)\]\(", text)
        assert "javascript:" not in text
        assert not re.search(r"^#", text, re.MULTILINE)


@pytest.mark.parametrize("name", [n for n in NAMES if set(n) & set("$<\x1b\x00\u202e")], ids=ascii)
def test_a_figure_is_drawn_whatever_its_name(results, name):
    points = np.random.default_rng(0).normal(size=(20, 2))
    text = figures.svg(figures.overview(name, points, [(name, points)]), name, "x")
    ElementTree.fromstring(text)
    assert "<script" not in text
    assert "<img" not in text


@pytest.mark.slow
def test_a_page_of_hostile_names_runs_nothing(results, browser, tmp_path):
    table = [row for name in NAMES if "\ud800" not in name for row in named(results, name)]
    path = tmp_path / "page.html"
    path.write_text(page_of(table, title=NAMES[1], lead=NAMES[2], command=NAMES[0]), encoding="utf-8")
    dialogs = []
    with watched(browser) as shown_page:
        shown_page.on("dialog", lambda d: (dialogs.append(d.message), d.dismiss()))
        shown_page.goto(path.as_uri())
        shown_page.locator("#results th button, #results th").first.click()
        title = shown_page.title()
        assert not dialogs
        assert title == NAMES[1]  # no script has changed it
        assert shown_page.locator("script:not([type])").count() == 1
        assert not shown_page.locator("img[src='x'], [onerror], [onmouseover], a[href^='javascript']").count()


@pytest.mark.slow
def test_the_policy_of_a_page_lets_no_other_script_run(results, browser, tmp_path):
    html = page_of(named(results, "a")).replace(
        "</main>", "<script>window.owned = 1</script><b onclick='owned=2'>b</b></main>"
    )
    path = tmp_path / "page.html"
    path.write_text(html, encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    assert (
        page.evaluate("() => [typeof window.owned, document.querySelectorAll('[aria-sort]').length > 0]")[0]
        == "undefined"
    )
    page.close()


ORDER = dict.fromkeys(("sampler", "kind", "order", "measured", "evaluations", "difference", "words")) | {"kind": ""}


def test_a_notebook_shows_hostile_names_as_text(results):
    for name in NAMES:
        html = fragment(named(results, name))
        assert "<script" not in html
        assert "<img" not in html


def test_a_class_has_a_name_that_a_class_can_have():
    from moonbed.metrics import Metric

    with pytest.raises(SpecError, match="no class can be called"):
        type("<script>", (Metric,), {"__module__": "x"})


def test_an_error_on_a_terminal_holds_no_escape(moonbed):
    code, _, err = moonbed("run", f"fast{ESCAPES}")
    assert code == 2
    assert "\x1b" not in err
    assert "\x9b" not in err


# Nothing is run


PLACES = {
    ("export/folder.py", "exec_module"): "Moonbed's own two source files, as they were just written",
    ("experiments/plugins.py", "exec_module"): "a researcher's own file, which the user names",
    (
        "points.py",
        "torch.load",
    ): "weights_only=True: torch's unpickler of tensors, which calls nothing that a file names",
}
"""The only places of the package that run or unpickle anything, and why."""
BARRED = {"eval", "exec", "compile", "__import__"}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "code", "runpy"}
ALLOWED_MODULES = {"points.py": {"pickle"}}  # for the name of its exception


def test_nothing_is_unpickled_or_evaluated():
    found = set()
    for path in SRC.rglob("*.py"):
        where = path.relative_to(SRC).as_posix()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                assert not {n.split(".")[0] for n in names} & MODULES - ALLOWED_MODULES.get(where, set()), where
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            last = called.rpartition(".")[2]
            options = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert called not in BARRED, f"{where}:{node.lineno}"
            if last == "read_array" or called in ("np.load", "numpy.load"):
                assert options.get("allow_pickle") == "False", f"{where}:{node.lineno}"
            if called == "torch.load":
                assert options.get("weights_only") == "True", f"{where}:{node.lineno}"
                found.add((where, called))
            if last == "exec_module":
                found.add((where, last))
    assert found == PLACES.keys()


@pytest.mark.slow
def test_a_run_and_all_that_is_made_of_it_unpickle_nothing(tmp_path):
    script = """
        import sys
        found = []
        sys.addaudithook(lambda name, args: found.append(args) if name == "pickle.find_class" else None)
        import numpy as np
        from small import METRICS, tiny
        from moonbed.cli import main
        from moonbed.experiments import Store, run
        experiment = tiny()
        run([experiment], metrics=METRICS, store="runs", device="cpu")
        np.save("x.npy", np.random.default_rng(0).normal(size=(50, 2)))
        for words in (
            ["report", experiment.id, "--out", "r.html"],
            ["evaluate", "x.npy", "--target", "TwoMoons", "--metrics", "SlicedW1", "--draws", "2", "--jobs", "1"],
            ["export", experiment.id, "--format", "npy", "--out", "e.npy"],
            ["export", experiment.id, "--format", "results", "--out", "r.zip"],
            ["import", "r.zip", "--store", "other"],
            ["verify", "--store", "other"],
        ):
            try:
                main(words)
            except SystemExit as end:
                assert not end.code, words
        assert not found, found
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{SRC.parent}:{Path(__file__).parent}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert {"r.html", "e.npy", "r.zip", "other"} <= set(names_in(tmp_path))
