"""What commands write for people: pages, figures, the index; readers that go away; clocks and signals that disturb.

A page or a figure is the old one or the new one. Nobody who stops reading costs a file. A process that sleeps, that is
interrupted in its system calls, or whose clock jumps by hours loses nothing, also while `gc` goes over the same store.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from faults_kills import DRIVER, Starts, stage_folder, start_command
from faults_subject import Child, Count, aged, compared, results, spoken, work

from moonbed.experiments import Store

HOURS = 5 * 3600.0
PRINTING = (
    *("--help", "--version", "list", "list samplers", "list runs", "list runs --json", "show fast", "show fast --json"),
    *("table", "table --format json", "table --format csv", "verify", "index", "index --json", "gc", "gc --dry-run"),
    *("export fast --help", "check Heun", "report --out PLACE/page.html", "plot --figures training --out PLACE"),
    *("table --format latex --out PLACE/table.tex", "run fast --help"),
)
"""Commands that print; PLACE is a folder in which something has to lie afterwards."""


def pages(tries: int, seed: int = 0) -> list[Count]:
    """SIGKILL at a random moment of a page, of a run with its page, of figures, and of the index."""
    from faults_subject import WORDS

    ran = [*(word for word in WORDS if word not in ("--report", "none")), "--jobs", "1", "--report"]
    counts, chance = [], random.Random(seed)
    with stage_folder() as where:
        starts = Starts(where)
        root = starts.store("floor")
        shutil.rmtree(root)
        shutil.copytree(where / "whole", root)
        makers: dict[str, Callable[[Path], None]] = {
            "page": lambda out: _command(["report", "--store", str(root), "--out", str(out / "it")]),
            "run and page": lambda out: _command([*ran, str(out / "it"), "--store", str(root), "--quiet"]),
            "figures": lambda out: _command(["plot", "--figures", "training", "--store", str(root), "--out", str(out)]),
            "index": lambda _: _index(root),
        }
        for name, make in makers.items():
            count = Count(f"SIGKILL at a random moment: {name}")
            _killed(count, make, root, where, tries, chance)
            counts.append(count)
    return counts


def _killed(
    count: Count, make: Callable[[Path], None], root: Path, where: Path, tries: int, chance: random.Random
) -> None:
    out, log = where / "out", where / "log"

    def fresh() -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()

    fresh()
    log.write_text("")
    for _ in range(2):  # what is computed once is in the store then
        begun = time.monotonic()
        if Child(lambda: make(out), log).wait() != 0:
            raise RuntimeError(log.read_text())
        seconds = time.monotonic() - begun
    new, runs = _contents(out), _known(root)
    done, held = 0, {k: v for k, v in results(root).items() if not k.startswith("exact/")}
    while done < tries:
        fresh()
        log.write_text("")
        for name in new:
            (out / name).write_bytes(b"old")
        child = Child(lambda: make(out), log)
        child.wait(chance.uniform(0, seconds))
        if child.kill() != -signal.SIGKILL:
            seconds *= 0.95
            continue
        done += 1
        problems = [f"{k} is neither" for k, v in _contents(out).items() if v not in (b"old", new.get(k))]
        problems += [f"{k} changed" for k, v in held.items() if results(root).get(k) != v]
        problems += [] if _known(root) == runs else ["other runs are listed"]
        if Child(lambda: make(out), log).wait() != 0 or _contents(out) != new:
            problems.append(f"the same command does not end with the same: {log.read_text()[-500:]}")
        count.take("killed", problems + spoken(log))


def _command(words: Sequence[str]) -> None:
    """A command in this process, on one core: what it makes, it makes here."""
    from moonbed.cli import main

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    main(words)


def _index(root: Path) -> None:
    index = Store(root).index()
    index.values(index.look(anew=True))


def _known(root: Path) -> list[str]:
    index = Store(root).index()
    found = index.look()
    return [str(run) for run in found] + [str(index.values(found))]


def _contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name[:1] != "."}


# Readers that go


def pipes(commands: Sequence[str] = PRINTING) -> list[Count]:
    """Of every command that prints: nobody reads from the beginning, or after a line, or there is no output at all."""
    counts = [Count(f"output: {how}") for how in ("closed at once", "closed after a line", "not open")]
    with stage_folder() as where:
        driver = where / "driver.py"
        driver.write_text(DRIVER)
        if start_command(where / "runs", driver, 1).wait() != 0:
            raise RuntimeError("the undisturbed command failed")
        for command in commands:
            for count in counts:
                count.take(command.split()[0], _unread(where, command.split(), count.fault))
    return counts


def _unread(where: Path, words: list[str], how: str) -> list[str]:
    place = where / "place"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    words = [sys.executable, "-m", "moonbed", *(word.replace("PLACE", str(place)) for word in words)]
    settings: dict[str, Any] = {"stderr": subprocess.PIPE, "text": True}
    settings["env"] = {**os.environ, "MOONBED_STORE": str(where / "runs"), "OMP_NUM_THREADS": "1"}
    if how.endswith("not open"):
        process = subprocess.Popen(["sh", "-c", 'exec "$@" >&-', "sh", *words], **settings)
    else:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, **settings)
        if how.endswith("line"):
            process.stdout.readline()
        process.stdout.close()
    said = process.stderr.read()
    problems = [] if process.wait() == 0 else [f"status {process.returncode}"]
    problems += [said] if "Traceback" in said or "Exception" in said else []
    wanted = str(place) in " ".join(words)
    return problems + (["nothing was written"] if wanted and not [*place.iterdir()] else [])


# Sleep, interrupted calls, clocks


def disturbed(tries: int, seed: int = 0) -> list[Count]:
    """A run that is stopped and goes on, whose calls are interrupted, whose clock jumps; `gc` with a clock hours ahead
    goes over the store meanwhile.
    """
    counts, chance = [], random.Random(seed)
    with stage_folder() as where:
        starts = Starts(where)
        for name, before in {
            "SIGSTOP, SIGCONT": lambda: None,
            "a signal every 2 ms (EINTR)": _interrupted,
            "a clock that jumps by hours": lambda: _jumping(seed),
        }.items():
            count = Count(f"{name}, with gc beside")
            for _ in range(tries):
                _disturb(count, starts, before, chance, stop="STOP" in name)
            counts.append(count)
    return counts


def _disturb(count: Count, starts: Starts, before: Callable[[], None], chance: random.Random, stop: bool) -> None:
    stage = chance.choice(("train", "sample", "evaluate", "floor"))
    root, logs = starts.store(stage), (starts.where / "log", starts.where / "log2")
    for log in logs:
        log.write_text("")
    child = Child(lambda: (before(), work(root)), logs[0])
    sweeper = Child(lambda: _sweeping(root), logs[1])
    while stop and child.wait(chance.uniform(0, 0.3)) is None:
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGSTOP)
            time.sleep(chance.uniform(0, 0.2))
            os.kill(child.pid, signal.SIGCONT)
    problems = [] if child.wait() == 0 else [f"status {child.code}: {logs[0].read_text()[-500:]}"]
    (root.parent / "stop").touch()
    problems += [] if sweeper.wait() == 0 else [f"the sweep: status {sweeper.code}"]
    (root.parent / "stop").unlink()
    problems += compared(aged(root), starts.whole) + [p for log in logs for p in spoken(log)]
    count.take(stage, problems)
    shutil.rmtree(root)


def _sweeping(root: Path) -> None:
    """What every command removes, and `moonbed gc`, again and again, by a clock that is hours ahead."""
    from moonbed.experiments.storage.collect import collect

    real = time.time
    time.time = lambda: real() + HOURS
    while not (root.parent / "stop").exists():
        Store(root).check_writable()
        list(collect(Store(root)))
        time.sleep(0.01)


def _interrupted() -> None:
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, True)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)


def _jumping(seed: int) -> None:
    chance, seconds, nanoseconds = random.Random(seed), time.time, time.time_ns
    time.time = lambda: seconds() + chance.uniform(-HOURS, HOURS)
    time.time_ns = lambda: nanoseconds() + round(1e9 * chance.uniform(-HOURS, HOURS))
