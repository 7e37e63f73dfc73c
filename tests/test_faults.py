"""Real processes that are killed: what they leave is resumed to the bits of an uninterrupted run.

`benchmarks/faults.py` counts many more faults.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import files, usual_signals

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import faults_damage
import faults_outputs
import faults_subject
import faults_writes

from moonbed.experiments import Store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc"),
]

DRIVER = """
import importlib, sys
importlib.import_module("moonbed.experiments.session").CHECKPOINT_SECONDS = 0.0
from moonbed.cli import main
if __name__ == "__main__":
    main(sys.argv[1:])
"""
STEPS = 4000
WORDS = [
    *("run", "ema", f"training.steps={STEPS}", "training.batch=64", "training.points=1000", "training.seed=0,1"),
    *("sampler.steps=5", "n=50", "--metrics", "SlicedW1", "--draws", "2", "--device", "cpu", "--report", "none"),
]
PATIENCE = 120


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """The command with a checkpoint after every block, also in its workers, which import this file."""
    path = tmp_path_factory.mktemp("driver") / "driver.py"
    path.write_text(DRIVER)
    return path


def start(driver: Path, store: Path, jobs: int) -> subprocess.Popen:
    words = [sys.executable, str(driver), *WORDS, "--store", str(store), "--jobs", str(jobs)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        start_new_session=True,
        preexec_fn=usual_signals,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def wait_for(condition, process: subprocess.Popen):
    """The first true value of `condition()`; fails when the process ends before."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        assert process.poll() is None, f"ended too early: {process.communicate()}"
        time.sleep(0.01)
    pytest.fail("waited too long")


def checkpoints(store: Path) -> set[str]:
    return {str(p) for p in store.glob("*/checkpoint-*.safetensors")}


def step_of(checkpoint: str) -> int:
    return int(Path(checkpoint).stem.removeprefix("checkpoint-"))


def in_session(leader: int) -> dict[int, tuple[int, str]]:
    """Process -> (its parent, command line), of the living processes of a session."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, _, session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found[int(path.name)] = int(parent), line
        except (OSError, ValueError):
            continue
    return found


def workers(leader: int) -> list[int]:
    """The processes that the server forked, which have its command line."""
    servers = {pid: parent for pid, (parent, line) in in_session(leader).items() if "forkserver" in line}
    return [pid for pid, parent in servers.items() if parent in servers]


def end_session(process: subprocess.Popen) -> None:
    for pid in in_session(process.pid):
        with contextlib.suppress(ProcessLookupError):  # it may end by itself meanwhile
            os.kill(pid, signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def two(driver, tmp_path_factory):
    """A store, and what two commands printed that worked on it at once and were left alone."""
    store = tmp_path_factory.mktemp("whole")
    both = [start(driver, store, 1) for _ in range(2)]
    return store, [finish(process) for process in both]


@pytest.fixture(scope="module")
def whole(two):
    """The files of a run that nobody interrupted."""
    found = files(two[0], (".npy", ".safetensors", ".jsonl"))
    assert len(found) == 6
    return found


def complete(moonbed, store: Path, whole: dict[str, str]) -> None:
    """The same command, in this process."""
    code, _, err = moonbed(*WORDS, "--store", store, "--jobs", 1)
    assert code == 0, err
    assert files(store, (".npy", ".safetensors", ".jsonl")) == whole
    assert not list(store.rglob(".*.*.????????")), "half written files were left"
    assert not checkpoints(store)
    assert len(Store(store).runs()) == 2


def test_two_commands_on_one_training(two):
    """One trains, the other waits and finds it done; both print the same table."""
    _, done = two
    assert [code for code, _, _ in done] == [0, 0]
    assert done[0][1] == done[1][1]
    trained = [line for _, _, err in done for line in err.splitlines() if f": train {STEPS:,} in" in line]
    assert sorted(line.split(": train")[0] for line in trained) == ["ema training.seed=0", "ema training.seed=1"]


def test_killed_again_and_again_it_ends_with_the_same_bits(moonbed, driver, tmp_path, whole):
    """SIGKILL at random moments while it trains: once to the parent alone, whose workers then end by themselves, then
    to all processes at once. Another number of jobs makes an end of it.
    """
    chance, steps = random.Random(5), []
    for who in ("parent", "all"):
        before = checkpoints(tmp_path)
        process = start(driver, tmp_path, 2)
        try:
            wait_for(lambda before=before: checkpoints(tmp_path) - before, process)
            time.sleep(chance.uniform(0, 0.3))
            if who == "parent":
                assert workers(process.pid)
                process.kill()
                process.wait(PATIENCE)
                deadline = time.monotonic() + PATIENCE / 4
                while workers(process.pid) and time.monotonic() < deadline:
                    time.sleep(0.05)
                assert not workers(process.pid)
        finally:
            end_session(process)
        assert process.returncode == -signal.SIGKILL
        names = sorted(checkpoints(tmp_path), key=step_of)
        steps.append({Path(n).parent.name: step_of(n) for n in names})
    first, second = steps  # training -> its last step; a training without one is done
    assert first
    assert all(second.get(training, STEPS) >= step for training, step in first.items())
    assert any(second.get(training, STEPS) > step for training, step in first.items())
    complete(moonbed, tmp_path, whole)


@pytest.mark.parametrize(
    ("number", "to", "jobs"),
    [(signal.SIGINT, "process", 1), (signal.SIGINT, "group", 2), (signal.SIGTERM, "group", 2)],
)
def test_ctrl_c(moonbed, driver, tmp_path, whole, number, to, jobs):
    """One clear line, the shell's status, a checkpoint, and the same command goes on; a terminal and a scheduler signal
    the whole group.
    """
    process = start(driver, tmp_path, jobs)
    try:
        wait_for(lambda: checkpoints(tmp_path), process)
        if to == "process":
            process.send_signal(number)
        else:
            os.killpg(process.pid, number)
        code, out, err = finish(process)
    finally:
        end_session(process)
    assert code == 128 + number
    assert out == ""
    assert err.splitlines()[-1] == (
        "moonbed: interrupted; what was done is kept, and the same command goes on from there"
    )
    assert "Traceback" not in err, err
    assert err.count("moonbed:") == 1
    assert list(tmp_path.glob("*/checkpoint.json"))
    complete(moonbed, tmp_path, whole)


LOST = """
import os, signal, time, weakref
from moonbed import signals

class Thing: pass

try:
    {begin}:
        thing = Thing()
        kept = weakref.ref(thing, lambda _: (os.kill(os.getpid(), signal.{name}), time.sleep(0)))
        del thing
        time.sleep(30)
except KeyboardInterrupt as stop:
    print(signals.status(stop))
"""


@pytest.mark.parametrize("begin", ["with signals.interrupting()", "if signals.interrupt_once() is None"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_in_a_callback_is_not_lost(name, begin):
    """Python cannot raise from there, and would go on as if nobody had asked."""
    found = subprocess.run(
        [sys.executable, "-c", LOST.format(name=name, begin=begin)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        preexec_fn=usual_signals,
    )
    assert (found.stdout, found.stderr) == (f"{128 + getattr(signal, name)}\n", "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_killed_is_started_again(driver, tmp_path, whole, number):
    process = start(driver, tmp_path, 2)
    try:
        wait_for(lambda: checkpoints(tmp_path), process)
        victims = wait_for(lambda: workers(process.pid), process)
        os.kill(victims[0], number)
        code, out, err = finish(process)
    finally:
        end_session(process)
    assert code == 0, err
    assert out.count("measured") >= 2
    assert files(tmp_path, (".npy", ".safetensors", ".jsonl")) == whole
    assert "Traceback" not in err, err


# A small dose of `benchmarks/faults.py`


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The children of the harness are forked from this process, which has everything then."""
    faults_subject.work(tmp_path_factory.mktemp("warm"))


def harmless(*counts):
    for count in counts:
        assert count.tried, count
        assert not count.lost, count.lost


def test_a_write_stopped_or_refused_at_its_calls(imported):
    harmless(*faults_writes.writes(every=25))


def test_every_kind_of_damage_is_noticed(imported):
    counts = faults_damage.damages(every=80)
    harmless(*counts)
    assert sum(count.tried for count in counts) > 500


def test_the_harness_sees_what_is_lost(imported, monkeypatch):
    """With a write that goes straight to its place, things are lost and counted."""
    from moonbed.experiments.storage import places

    monkeypatch.setattr(
        places, "put", lambda path, data: (path.parent.mkdir(parents=True, exist_ok=True), path.write_bytes(data))
    )
    assert any(count.lost for count in faults_writes.writes(every=25))


def test_what_a_killed_process_left_among_the_floors_is_swept(tmp_path):
    """Not what a process that lives still writes, however old it is: it may have slept, or the clock jumped."""
    store, nobody = Store(tmp_path), 2**30
    old, fresh, living = (tmp_path / "floors" / f".{k}.json.{nobody}.0123abcd" for k in range(3))
    living = living.with_name(f".a.json.{os.getpid()}.0123abcd")
    token = tmp_path / ".seen.engine.0123abcd"
    old.parent.mkdir()
    for path in (old, fresh, living, token):
        path.touch()
    for path in (old, living, token):
        os.utime(path, (time.time() - 7200,) * 2)
    store.check_writable()
    assert [path.exists() for path in (old, fresh, living, token)] == [False, True, True, True]


@pytest.mark.parametrize("how", ["put", "create"])
def test_what_is_taken_away_while_it_is_written_is_written_again(tmp_path, monkeypatch, how):
    """By a process of another machine, whose clock is another; also the folder, if it was empty."""
    from moonbed.experiments.storage import places

    real, taken = places._beside, []

    def beside(path, data):
        temporary = real(path, data)
        if len(taken) < places.TRIES - 1:
            taken.append(temporary)
            temporary.unlink()
            path.parent.rmdir()
        return temporary

    monkeypatch.setattr(places, "_beside", beside)
    getattr(places, how)(tmp_path / "a" / "b.txt", b"whole")
    assert len(taken) == places.TRIES - 1
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"whole"
    assert len(list((tmp_path / "a").iterdir())) == 1


UNREAD = """
import sys
from pathlib import Path
from moonbed.cli.app import app, main

@app.command
def long():
    print("x" * 1_000_000)
    Path(sys.argv[1]).write_text("after it")
    return 1

main(["long"])
"""


def test_what_nobody_reads_ends_no_command(tmp_path):
    """`moonbed run ... | head -1`: the page is written after the table; and the status is that of the work."""
    command = [sys.executable, "-c", UNREAD, str(tmp_path / "page")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ("", 1)
    assert (tmp_path / "page").read_text() == "after it"


def test_without_an_output_a_command_does_its_work(tmp_path):
    """`moonbed list >&-`"""
    words = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "moonbed", "index", "--store", str(tmp_path)]
    found = subprocess.run(words, stderr=subprocess.PIPE, text=True)
    assert (found.stderr, found.returncode) == ("", 0)


def test_a_sweep_beside_with_a_clock_that_is_ahead(imported):
    harmless(*faults_outputs.disturbed(1, seed=3))
