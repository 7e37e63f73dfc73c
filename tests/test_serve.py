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
import torch
from browser import watched
from small import METRICS, tiny, usual_signals

from moonbed.component import SpecError
from moonbed.diffusion.density import MaximumLikelihood
from moonbed.experiments import PRESETS, Store, Training, run, session
from moonbed.experiments.floors import save_floor
from moonbed.experiments.presets import published
from moonbed.experiments.storage.folder import Folder
from moonbed.experiments.storage.runs import save_checkpoint, save_spec
from moonbed.experiments.train import State, train
from moonbed.networks.flow import SplineFlow
from moonbed.networks.residual import Residual
from moonbed.serve import application, is_loopback
from moonbed.serve.index import Index, thinned
from moonbed.serve.models import Models, weights_of
from moonbed.serve.naming import brief, described
from moonbed.serve.server import listen

DONE = tiny(training__steps=300, n=60)
DIVERGED = tiny(training__steps=60, n=20, training__optimizer__lr=1e20)
CUT = tiny(training__steps=300, training__seed=3, n=20)
HOSTILE = "<script>alert(1)</script>'\"&"


def digests(root: Path) -> dict[str, tuple[str, int]]:
    """All that is below a folder, byte for byte, with times."""
    return {
        str(p.relative_to(root)): (
            hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "",
            p.stat().st_mtime_ns,
        )
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
    save_checkpoint(folder, *state.snapshot(), 0.25)
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


def test_a_thousand_runs_are_listed_in_a_second(tmp_path, monkeypatch):
    """And listed again without reading one: only what has changed is read again."""
    spec, log = DONE.training.spec(), b"".join(b'{"step": %d, "loss": 0.5}\n' % (100 * k) for k in range(1, 401))
    for k in range(1000):
        key = hashlib.sha256(b"%d" % k).hexdigest()[:16]
        folder = Folder(tmp_path / key)
        folder.path.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: None)
            folder.write_json("training.json", {"id": key, "spec": {**spec, "seed": k, "batch": 1 + k}})
            folder.finish({"status": "done", "step": 300, "seconds": 1.0, "parameters": 9}, {"log.jsonl": log})
    time.sleep(0.15)
    index, read = Index(Store(tmp_path)), []
    begin = time.process_time()
    assert len(index.runs()) == 1000
    assert time.process_time() - begin < 2  # 0.7 s where nobody else is about
    monkeypatch.setattr(Folder, "read", lambda self, *a: read.append(self.path) or pytest.fail("read again"))
    index._looked = -1e9
    begin = time.process_time()
    assert {r["status"] for r in index.runs()} == {"done"}
    assert time.process_time() - begin < 0.3
    assert read == []


# Models


def test_the_model_of_a_checkpoint_is_what_training_would_sample_with(tmp_path):
    """Its averaged weights, bit for bit; and where the browser has no counterpart, samples and the reason."""
    training = tiny("ema", training__steps=300).training
    store, state = Store(tmp_path), State(training)
    folder = store.training(training)
    save_spec(folder, training)
    assert Models(store).live(folder)["reason"].startswith("No checkpoint yet")
    next(train(training, state))
    save_checkpoint(folder, *state.snapshot(), 0.1)
    weights, step = weights_of(folder, training, None)
    wanted = state.weights_for_sampling()
    assert step == 100
    assert all(torch.equal(weights[name], w) for name, w in wanted.items())
    last = state.network.state_dict()
    assert any(not torch.equal(weights[name], w) for name, w in last.items())
    models = Models(Store(tmp_path, readonly=True))
    first = models.live(folder)
    assert [plan["text"] for plan in first["document"]["plans"].values()] == [
        "DDIM, 32 steps",
        "DDIM, 8 steps",
        "Heun, 16 steps",
    ]
    assert models.live(folder) is first
    density = Training(
        network=SplineFlow(hidden=(8,)), objective=MaximumLikelihood(), steps=100, batch=64, points=1000, averaging=None
    )
    folder = store.training(density)
    save_spec(folder, density)
    save_checkpoint(folder, *State(density).snapshot(), 0.1)
    drawn = models.live(folder)
    assert (drawn["document"], drawn["samples"]["sampler"], drawn["samples"]["dim"]) == (None, "Draw", 2)
    assert "density" in drawn["reason"]
    assert len(drawn["target"]["points"]) == 2000


# What is not done


def test_only_reading_is_answered(port):
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        for path in ("/", "/api/runs", f"/api/runs/{DONE.training.id}", "/nowhere"):
            status, headers, _ = ask(port, path, method)
            assert (status, headers["allow"]) == (405, "GET, HEAD"), (method, path)
    status, headers, body = ask(port, "/api/runs", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 100


WAYS = [
    "/runs/..",
    "/runs/../../etc/passwd",
    "/runs/%2e%2e",
    "/runs/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/runs/floors",
    "/runs/.",
    "/runs/%00",
    "/runs/exact",
    "/api/runs/..",
    "/api/runs/%2e%2e/live",
    "/api/runs/%2e%2e%2f0123/live",
    "/api/runs/floors/live",
    "/runs/floors/report",
    "/static/../web.py",
    "/static/%2e%2e%2fweb.py",
    "/static/..",
    "/static//etc/passwd",
    "//etc/passwd",
]


@pytest.mark.parametrize("path", WAYS)
def test_a_path_names_a_run_or_nothing(port, path):
    status, _, body = ask(port, path)
    assert status == 404
    assert b"root:" not in body
    assert b"import" not in body


@pytest.mark.parametrize("path", ["/", "/api/runs", "/static/serve.css", "/nowhere", f"/runs/{DONE.training.id}"])
def test_every_answer_carries_its_headers(port, path):
    _, headers, _ = ask(port, path)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "unsafe-inline" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in headers


def test_a_foreign_host_name_is_refused(port):
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
        status, _, body = ask(port, "/api/runs", Host=host)
        assert status == 400, host
        assert b"store" not in body
    for host in ("localhost", "localhost:1234", "127.0.0.1", "[::1]:80"):
        assert ask(port, "/api/runs", Host=host)[0] == 200, host


def test_on_a_network_every_name_is_answered(store):
    assert [is_loopback(h) for h in ("127.0.0.1", "localhost", "::1", "127.8.0.1", "0.0.0.0", "::", "10.0.0.1")] == [
        *[True] * 4,
        *[False] * 3,
    ]
    with serving(store.root, "0.0.0.0") as port:
        assert ask(port, "/api/runs", Host="laboratory.example")[0] == 200


def test_nothing_is_written(store, tmp_path):
    """Whoever looks leaves no trace, also where nothing could be written."""
    root = tmp_path / "store"
    shutil.copytree(store.root, root)
    before = digests(root)
    for path in (root, *(p for p in root.rglob("*") if p.is_dir())):
        path.chmod(0o555)
    try:
        with serving(root) as port:
            found = by_id(port)
            assert len(found) == 6
            for key in (DONE.training.id, CUT.training.id, DIVERGED.training.id):
                for path in (f"/runs/{key}", f"/api/runs/{key}", f"/api/runs/{key}/live"):
                    assert ask(port, path)[0] == 200, path
                status, headers, body = ask(port, f"/runs/{key}/report")
                assert (status, b'id="moonbed-live"' in body) == (
                    (200, True) if key == DONE.training.id else (409, False)
                )
                assert headers["content-security-policy"].startswith("default-src 'none'")
    finally:
        for path in (root, *(p for p in root.rglob("*") if p.is_dir())):
            path.chmod(0o755)
    assert digests(root) == before


def test_looking_whether_somebody_trains_holds_nobody_up(tmp_path):
    store = Store(tmp_path)
    folder = store.training(DONE.training)
    assert folder.held() is False
    with store.lock(DONE.training):
        assert folder.held() is True
    assert folder.held() is False
    stop, waits = threading.Event(), []

    def look():
        while not stop.is_set():
            folder.held()

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(20):
        begin = time.perf_counter()
        with store.lock(DONE.training):
            waits.append(time.perf_counter() - begin)
    stop.set()
    thread.join()
    assert sorted(waits)[10] < 0.2, waits


def test_an_empty_store_and_one_that_appears(tmp_path):
    index = Index(Store(tmp_path / "later"))
    assert index.runs() == []
    shutil.copytree(tmp_path, tmp_path.parent / "gone", dirs_exist_ok=True)
    (tmp_path / "later").mkdir()
    folder = Folder(tmp_path / "later" / DONE.training.id)
    save_spec(folder, DONE.training)
    index._looked = -1e9
    (found,) = index.runs()
    assert (found["status"], found["step"], found["loss"]) == ("interrupted", 0, None)
    assert index.run("..") is None
    assert index.folder("..") is None


# A training under way, and the command


def wait_for(condition, seconds: float = 120.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    pytest.fail("waited too long")


def test_a_training_is_seen_while_it_runs(tmp_path, monkeypatch):
    """Every block of it: step, loss and curve, the model of its checkpoint, then its samples, and that it is done."""
    from moonbed.experiments.train import train as real

    reached, go_on = threading.Event(), threading.Semaphore(0)

    def slowly(training, state, ahead):
        for found in real(training, state, ahead):
            yield found  # the block is saved here
            reached.set()
            assert go_on.acquire(timeout=60)

    monkeypatch.setattr(session, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("moonbed.experiments.together.train", slowly)
    experiment = tiny(training__steps=400, training__seed=11, n=40)
    store, key = Store(tmp_path), experiment.training.id
    thread = threading.Thread(target=lambda: run(experiment, metrics=METRICS, store=store, device="cpu"))
    with serving(tmp_path) as port:
        thread.start()
        try:
            for step in (100, 200, 300):
                assert reached.wait(60)
                reached.clear()
                one = wait_for(lambda step=step: (r := by_id(port).get(key)) and r["step"] == step and r, 10)
                assert (one["status"], one["steps"], len(one["spark"])) == ("training", 400, step // 100)
                assert one["loss"] == one["spark"][-1] > 0
                assert one["experiments"] == []
                full = api(port, f"runs/{key}")
                assert full["log"][-1] == [step, one["loss"]]
                live = api(port, f"runs/{key}/live")
                assert (live["step"], live["document"]["models"][0]["kind"]) == (step, "learned")
                go_on.release()
        finally:
            go_on.release(10)
            thread.join(60)
        done = wait_for(lambda: (r := by_id(port)[key])["status"] == "done" and r, 10)
        assert (done["step"], [e["status"] for e in done["experiments"]]) == (400, ["done"])
        assert api(port, f"runs/{key}/live")["step"] == 400


SAVING_OFTEN = """
import importlib, sys
importlib.import_module("moonbed.experiments.session").CHECKPOINT_SECONDS = 0.1
from moonbed.cli import main
main(sys.argv[1:])
"""
"""The command, with so many checkpoints that whoever waits for two of them waits for little else."""


@contextmanager
def command(*words: str, program=("-m", "moonbed")):
    process = subprocess.Popen(
        [sys.executable, *program, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=usual_signals,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_two_commands_one_trains_and_one_looks(tmp_path):
    """Steps and losses grow; a training that is killed is interrupted; Ctrl-C ends the server without a word."""
    store = tmp_path / "runs"
    words = ["run", "ddpm", "training.steps=19900", "training.batch=64", "--quiet", "--jobs", "1", "--device", "cpu"]
    with command("serve", "--port", "0", "--store", str(store)) as server:
        first = server.stdout.readline()
        port = int(re.fullmatch(rf"serving {store} on http://127\.0\.0\.1:(\d+)\n", first)[1])
        assert api(port, "runs")["runs"] == []
        with command(*words, "--store", str(store), program=("-c", SAVING_OFTEN)) as training:
            one = wait_for(lambda: next((r for r in api(port, "runs")["runs"] if r["step"]), None))
            more = wait_for(lambda: next((r for r in api(port, "runs")["runs"] if r["step"] > one["step"]), None))
            assert (one["status"], one["steps"]) == (more["status"], more["steps"]) == ("training", 19_900)
            assert one["loss"] > 0
            assert len(api(port, f"runs/{one['id']}")["log"]) >= more["step"] // 100
            training.kill()
            training.wait(20)
        wait_for(lambda: api(port, "runs")["runs"][0]["status"] == "interrupted")
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=20)
    assert (server.returncode, out) == (0, "")
    assert err == "moonbed: ended\n"


def test_a_port_that_is_taken_and_addresses_that_are_none(moonbed, port, tmp_path):
    assert moonbed("serve", "--port", port)[0] == 2
    code, out, err = moonbed("serve", "--port", port)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use; --port 0 takes a free one" in err
    assert "should be 0 to 65535, given 70000" in moonbed("serve", "--port", "70000")[2]
    code, _, err = moonbed("serve", "--host", "no such host")
    assert code == 2
    assert "--host: 'no such host' is no address of this machine" in err
    (tmp_path / "file").write_text("x")
    code, _, err = moonbed("serve", "--store", tmp_path / "file")
    assert (code, err) == (2, f"moonbed: --store: {tmp_path / 'file'} is no folder\n")
    with pytest.raises(SpecError, match="--port"):
        listen("127.0.0.1", port)


# In a browser


@pytest.fixture
def view(browser, port):
    with watched(browser, allowed=(f"http://127.0.0.1:{port}/",)) as page:
        page.address = f"http://127.0.0.1:{port}"
        yield page


def test_the_list_in_a_browser(view):
    """Also whatever a folder, a class or a record is called stays text: no script ran, no element was made of it."""
    view.on("dialog", lambda d: pytest.fail(f"a script of the store ran: {d.message}"))
    view.goto(view.address)
    view.wait_for_selector("tbody tr")
    assert view.locator("tbody tr").count() == 6
    assert view.inner_text("#summary") == "2 damaged, 2 diverged, 1 interrupted, 1 done"
    assert HOSTILE in view.inner_text("tbody")
    assert view.locator("tbody script, main script").count() == 0
    view.fill("#filter", "seed=3")
    assert view.locator("tbody tr").count() == 1
    assert "interrupted" in view.inner_text("tbody tr")
    assert view.get_attribute("tbody [role=progressbar]", "aria-valuenow") == "100"
    view.fill("#filter", "")
    view.select_option("#status", "done")
    assert view.locator("tbody tr").count() == 1
    view.select_option("#status", "")
    view.click("th[data-key=loss] button")
    assert view.get_attribute("th[data-key=loss]", "aria-sort") == "ascending"
    losses = [float(t) for t in view.locator("td.loss span").all_inner_texts() if t != "–"]
    assert losses == sorted(losses)
    assert "sort=loss" in view.url
    for stranger in ("__proto__", "constructor", "toString"):  # what every object has
        view.goto(f"{view.address}/#sort={stranger}")
        view.wait_for_selector("th[data-key=started][aria-sort=descending]")
        assert view.locator("tbody tr").count() == 6


@pytest.mark.parametrize("which", ["done", "interrupted", "hostile"])
def test_a_run_in_a_browser(view, which):
    from playwright.sync_api import expect as sees  # waits by itself; what evaluates texts is against the page's policy

    key = {"done": DONE.training.id, "interrupted": CUT.training.id, "hostile": "0123456789abcdef"}[which]
    view.on("dialog", lambda d: pytest.fail(f"a script of the store ran: {d.message}"))
    view.goto(f"{view.address}/runs/{key}")
    sees(view.locator("#configuration")).to_contain_text("Training(")
    assert view.inner_text("#badge") == {"hostile": "diverged"}.get(which, which)
    if which == "hostile":
        assert HOSTILE in view.inner_text("#message")
        assert HOSTILE in view.inner_text("#configuration")
        assert view.locator("main script").count() == 0
    else:
        assert view.locator("#curve svg circle").count() == 1
        view.wait_for_selector("#clouds:not([hidden])", timeout=60_000)  # the model came and was sampled here
        painted = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v, k) => k % 4 == 3 && v)"
        assert view.eval_on_selector("#generated", painted)
        assert view.eval_on_selector("#target", painted)
        what = "step 300 by DDPMScheduler, 5 steps" if which == "done" else "step 100 by DDIM, 32 steps"
        sees(view.locator("#samples-text")).to_contain_text(f"2,000 samples of {what}")
    if which == "done":
        assert "sliced W1" in view.inner_text("#measured")
        view.select_option("#plan", label="Heun, 16 steps")
        sees(view.locator("#samples-text")).to_contain_text("by Heun, 16 steps")


def test_a_server_that_goes_is_said(browser, store):
    with serving(store.root) as port:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("tbody tr")
    page.wait_for_selector("#trouble:not([hidden])", timeout=15_000)
    assert "does not answer" in page.inner_text("#trouble")
    assert page.locator("tbody tr").count() == 6
    context.close()
