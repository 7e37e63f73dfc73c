"""The server over the store: what it lists and when, that it only reads, and that nothing in a store is believed."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import watched
from small import METRICS, files, tiny

from moonbed.component import SpecError
from moonbed.experiments import PRESETS, Store, run
from moonbed.experiments.floors import save_floor
from moonbed.experiments.presets import published
from moonbed.experiments.store import Folder, save_spec
from moonbed.experiments.train import State, train
from moonbed.networks.residual import Residual
from moonbed.serve import application, is_loopback
from moonbed.serve.index import Index, thinned
from moonbed.serve.naming import brief, described
from moonbed.serve.server import listen

DONE = tiny(training__steps=300, n=60)
DIVERGED = tiny(training__steps=60, n=20, training__optimizer__lr=1e20)
CUT = tiny(training__steps=300, training__seed=3, n=20)
HOSTILE = "<script>alert(1)</script>'\"&"


def digests(root: Path) -> dict[str, tuple[str, int]]:
    """All that is below a folder, byte for byte, with times."""
    return {
        str(p.relative_to(root)): (hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "", p.stat().st_mtime_ns)
        for p in sorted(root.rglob("*"))
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One run of each kind: done, diverged, interrupted, damaged, and two whose names are an attack."""
    store = Store(tmp_path_factory.mktemp("store"))
    run([DONE, DONE.replace(n=50), DIVERGED], metrics=METRICS, store=store, device="cpu")
    save_floor(store, DONE.training.target, METRICS[0], DONE.n, [0.1, 0.2, 0.3])
    state = State(CUT.training)
    next(train(CUT.training, state))
    folder = store.training(CUT.training)
    save_spec(folder, CUT.training)
    folder.save_checkpoint(*state.snapshot(), 0.25)
    damaged = tiny(training__steps=300, training__seed=4).training
    save_spec(store.training(damaged), damaged)
    (store.training(damaged).path / "record.json").write_text('{"status": "done", "step": 1}')
    Folder(store.root / HOSTILE.replace("/", "|")).write_json("training.json", {"id": "x", "spec": {"type": HOSTILE}})
    spec = {**DONE.training.spec(), "network": {"type": HOSTILE, HOSTILE: HOSTILE, "source": "0"}}
    hostile = Folder(store.root / "0123456789abcdef")
    hostile.write_json("training.json", {"id": "0123456789abcdef", "spec": spec})
    hostile.finish({"status": "diverged", "message": HOSTILE, "step": 0, "seconds": 0.1, "parameters": 1}, {})
    (store.root / "floors" / "note.txt").write_text("no run")
    return store


@contextmanager
def serving(root: Path, host: str = "127.0.0.1"):
    """Its port, while a server answers in a thread."""
    import uvicorn

    with listen(host, 0) as found:
        settings = uvicorn.Config(application(Store(root), host), log_level="critical", lifespan="off")
        server = uvicorn.Server(settings)
        server.install_signal_handlers = lambda: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [found]}, daemon=True)
        thread.start()
        try:
            yield found.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture(scope="module")
def port(store):
    with serving(store.root) as port:
        yield port


def ask(port: int, path: str, method: str = "GET", **headers: str):
    """(status, headers, body) of a request, sent as it is written."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def api(port: int, path: str):
    status, _, body = ask(port, f"/api/{path}")
    assert status == 200, body
    return json.loads(body)


def by_id(port: int):
    return {r["id"]: r for r in api(port, "runs")["runs"]}


# What is listed


def test_every_run_has_its_status(port, store):
    found = by_id(port)
    assert len(found) == 6
    done, cut = found[DONE.training.id], found[CUT.training.id]
    assert (done["status"], done["step"], done["steps"]) == ("done", 300, 300)
    assert (done["name"], dict(done["differs"])["steps"]) == ("baseline", "300")
    assert [e["n"] for e in done["experiments"]].count(60) == 1
    assert {e["status"] for e in done["experiments"]} == {"done"}
    assert len(done["spark"]) == 3
    assert done["loss"] == done["spark"][-1]
    assert (cut["status"], cut["step"], len(cut["spark"]), cut["seconds"]) == ("interrupted", 100, 1, 0.25)
    diverged = found[DIVERGED.training.id]
    assert diverged["status"] == "diverged"
    assert "training diverged at step" in diverged["message"]
    damaged = [r for r in found.values() if r["status"] == "damaged"]
    assert len(damaged) == 2
    assert any("record.json is damaged" in r["message"] for r in damaged)
    assert any("is not what its folder is named for" in r["message"] for r in damaged)
    times = [r["started"] for r in api(port, "runs")["runs"]]
    assert times == sorted(times, reverse=True)


def test_one_run_in_full(port):
    found = api(port, f"runs/{DONE.training.id}")
    assert found["spec"] == DONE.training.spec()
    assert [step for step, _ in found["log"]] == [100, 200, 300]
    (value,) = next(e for e in found["experiments"] if e["n"] == 60)["values"]
    assert value["metric"] == METRICS[0].label
    assert value["interval"][0] <= value["value"] <= value["interval"][1]
    assert (value["floor"], value["draws"]) == ([pytest.approx(0.11), pytest.approx(0.29)], 3)
    assert api(port, f"runs/{CUT.training.id}")["log"][0][0] == 100


def test_what_is_damaged_is_said_and_shown(port, store):
    name = next(r["id"] for r in by_id(port).values() if "record.json is damaged" in r["message"])
    found = api(port, f"runs/{name}")
    assert (found["status"], found["spec"]) == ("damaged", None)
    status, _, body = ask(port, f"/runs/{name}")
    assert status == 200
    assert name in body.decode()


def test_unchanged_is_304(port):
    _, headers, _ = ask(port, "/api/runs")
    assert ask(port, "/api/runs", **{"If-None-Match": headers["etag"]})[::2] == (304, b"")
    assert ask(port, "/api/runs", **{"If-None-Match": '"other"'})[0] == 200


def test_names_and_differences():
    assert described(PRESETS["residual"].training.spec()) == ("residual", [])
    assert described(published(PRESETS["ddpm"]).training.replace(seed=5, steps=1500).spec()) == (
        "baseline, published data, quick",
        [],
    )
    name, differs = described(tiny("ema", training__seed=9).training.spec())
    assert name == "ema"
    assert sorted(differs) == [["batch", "64"], ["network.hidden", "[16]"], ["points", "1000"], ["steps", "200"]]
    other = PRESETS["ema"].training.replace(network=Residual(blocks=2)).spec()
    assert described(other)[0] in ("ema", "residual")
    assert ["network.blocks", "2"] in described(other)[1]
    assert brief(PRESETS["fast"].sampler.spec()) == "DDIM(steps=200, eta=1.0)"
    unknown = {**other, "network": {"type": "Mine", "source": "00", "width": 3, "seed": 4}}
    assert [d for d in described(unknown)[1] if d[0].startswith("network")] == [
        ["network", "Mine"],
        ["network.width", "3"],
        ["network.seed", "4"],
    ]


def test_a_curve_is_thinned_to_its_end():
    log = [(k, float(k)) for k in range(1, 1001)]
    few = thinned(log, 40)
    assert len(few) == 40
    assert few[-1] == log[-1]
    assert thinned(log[:3], 40) == log[:3]
    assert thinned([], 40) == []


def test_a_thousand_runs_are_listed_in_a_second(tmp_path):
    """And listed again in a tenth of it: only what has changed is read again."""
    import uuid

    spec, log = DONE.training.spec(), b"".join(b'{"step": %d, "loss": 0.5}\n' % (100 * k) for k in range(1, 401))
    for k in range(1000):
        key = uuid.uuid4().hex[:16]
        folder = Folder(tmp_path / key)
        folder.path.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: None)
            folder.write_json("training.json", {"id": key, "spec": {**spec, "seed": k, "batch": 1 + k}})
            folder.finish({"status": "done", "step": 300, "seconds": 1.0, "parameters": 9}, {"log.jsonl": log})
    time.sleep(0.15)
    index, begin = Index(Store(tmp_path)), time.perf_counter()
    assert len(index.runs()) == 1000
    first = time.perf_counter() - begin
    index._looked = -1e9
    begin = time.perf_counter()
    assert {r["status"] for r in index.runs()} == {"done"}
    again = time.perf_counter() - begin
    print(f"1,000 runs: {first:.2f} s, again {again:.3f} s")
    assert first < 3
    assert again < first / 4
