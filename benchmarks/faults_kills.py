"""Processes that are ended from outside at random moments; whether what they leave is gone on with to the same bytes.

A chain: the same command again and again on one store, each time ended after a random share of the time that it would
need, and then left alone. After every end all that is in the store must be whole; after the last, all files must be
those of a run that nobody disturbed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from faults_subject import WORDS, Child, Count, aged, command, compared, damage, results, spoken, work

CHAIN = 4
"""How often one store is disturbed before it is left alone."""
STAGES = ("train", "sample", "evaluate", "floor", "write")
DRIVER = """import importlib, sys
importlib.import_module("moonbed.experiments.session").CHECKPOINT_SECONDS = 0.0
from moonbed.__main__ import main
if __name__ == "__main__":
    main()
"""


class Starts:
    """An undisturbed store, and stores that stand before each stage."""

    def __init__(self, where: Path) -> None:
        self.where = where
        child = Child(lambda: work(where / "whole"), where / "log")
        if child.wait() != 0:
            raise RuntimeError(child.log.read_text())
        self.whole = results(where / "whole")
        self._made = 0

    def store(self, stage: str) -> Path:
        """A store of its own, in which `stage` is the next that has something to do."""
        self._made += 1
        root = self.where / f"store{self._made}"
        if stage == "train":
            root.mkdir()
            return root
        shutil.copytree(self.where / "whole", root)
        lacking = {"floor": ["floors/*"], "evaluate": ["floors/*", "*/*/metrics/*"]}
        lacking |= {"sample": [*lacking["evaluate"], "*/*/record.json", "*/*/samples.npy"]}
        for pattern in lacking[stage]:
            for path in root.glob(pattern):
                path.unlink()
        return root

    def seconds(self, do: Callable[[Path], None], stage: str) -> float:
        """How long it takes from there to the end."""
        root, start = self.store(stage), time.monotonic()
        code = Child(lambda: do(root), self.where / "log").wait()
        if code != 0:
            raise RuntimeError((self.where / "log").read_text())
        shutil.rmtree(root)
        return time.monotonic() - start


@contextmanager
def stage_folder():
    """A folder that is gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def kills(each: Mapping[str, int], seed: int = 0) -> Count:
    """SIGKILL until every stage has had so many."""
    count = Count("SIGKILL at a random moment")
    with stage_folder() as where:
        starts, chance = Starts(where), random.Random(seed)
        seconds: dict[str, float] = {}
        while open_ := [s for s in STAGES if count.stages[s] < each[s]]:
            start = (
                chance.choice(STAGES[:4]) if open_ == ["write"] else chance.choice([s for s in open_ if s != "write"])
            )
            seconds.setdefault(start, starts.seconds(work, start))
            _chain(count, starts, start, seconds, chance)
    return count


def _chain(count: Count, starts: Starts, start: str, seconds: dict[str, float], chance: random.Random) -> None:
    root, log, before = starts.store(start), starts.where / "log", time.monotonic()
    log.write_text("")
    where: list[str] = []
    for _ in range(CHAIN):
        child = Child(lambda: work(aged(root)), log)
        child.wait(chance.uniform(0, seconds[start]))
        stage = child.stage()
        child.kill()
        if child.code != -signal.SIGKILL:
            seconds[start] *= 0.9
            break
        where.append(stage)
        found = damage(root)
        count.take(stage, found)
        if found:
            return
    child, before = Child(lambda: work(aged(root)), log), time.monotonic()
    problems = ([] if child.wait() == 0 else [f"status {child.code}"]) + compared(root, starts.whole) + spoken(log)
    seconds[start] = max(seconds[start], time.monotonic() - before)
    count.lost += [f"{where}: {'; '.join(problems)}"] if problems else []
    shutil.rmtree(root)


def signals(
    each: int, seed: int = 0, numbers: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
) -> list[Count]:
    """Ctrl-C and the like until every stage but `write` has had so many: exit status, words, and the same command."""
    counts = []
    for number in numbers:
        for twice in (False, True)[: 1 + (number == signal.SIGINT)]:
            count = Count(f"{signal.Signals(number).name}{' twice' if twice else ''}")
            with stage_folder() as where:
                starts, chance = Starts(where), random.Random(seed)
                seconds = {s: starts.seconds(command, s) for s in STAGES[:4]}
                tries = 0
                while (open_ := [s for s in STAGES[:4] if count.stages[s] < each]) and tries < 40 * each:
                    tries += 1
                    _signalled(count, starts, chance.choice(open_), seconds, chance, (number, twice))
            counts.append(count)
    return counts


def _signalled(
    count: Count, starts: Starts, start: str, seconds: dict[str, float], chance: random.Random, how: tuple[int, bool]
) -> None:
    root, log = starts.store(start), starts.where / "log"
    log.write_text("")
    child = Child(lambda: command(root), log)
    child.wait(chance.uniform(0, seconds[start]))
    stage = child.stage()
    if child.poll() is None:
        os.kill(child.pid, how[0])
        if how[1]:
            child.wait(chance.uniform(0, 0.03))
    code = child.kill(how[0]) if child.poll() is None else child.code
    if code == 0:  # it was done before
        seconds[start] *= 0.9
    else:
        problems = damage(root)
        if not (stage == "between" and code in (-how[0], 70) and "/src/moonbed/" not in log.read_text()):
            problems += spoken(log) + ([] if code == 128 + how[0] else [f"status {code}: {log.read_text()}"])
        # else it came while the harness itself began, before the command could answer it
        again = Child(lambda: command(aged(root)), log)
        problems += ([] if again.wait() == 0 else [f"status {again.code}"]) + compared(root, starts.whole)
        count.take(stage, problems)
    shutil.rmtree(root)


# Whole commands


def start_command(root: Path, driver: Path, jobs: int = 2, **more: object) -> subprocess.Popen[bytes]:
    """The command of the subject, as a user starts it, with two seeds."""
    words = [sys.executable, str(driver), *WORDS, "training.seed=0,1", "--store", str(root), "--jobs", str(jobs)]
    given = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **more}
    return subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True, **given)  # type: ignore[call-overload, no-any-return]


def in_session(leader: int) -> list[int]:
    """The living processes of a session, the leader first."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            state, _, _, session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(path.name))
    return sorted(found)


def commands(tries: int, seed: int = 0) -> Count:
    """Whole commands with two workers: the command, one of its processes, or all of them killed at a random moment."""
    count = Count("SIGKILL of a whole command, `--jobs 2`")
    with stage_folder() as where:
        driver, chance = where / "driver.py", random.Random(seed)
        driver.write_text(DRIVER)
        begun = time.monotonic()
        if start_command(where / "whole", driver, 1).wait() != 0:
            raise RuntimeError("the undisturbed command failed")
        seconds, whole = time.monotonic() - begun, results(where / "whole")
        root = where / "store"
        for k in range(tries):
            who = ("command", "one of its processes", "all processes")[k % 3]
            process = start_command(root, driver)
            with suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0.2, 1.0) * seconds)
            living = in_session(process.pid)
            chosen = {"command": living[:1], "all processes": living}.get(who) or [chance.choice(living or [0])]
            for pid in chosen:
                with suppress(ProcessLookupError):
                    os.kill(pid or process.pid, signal.SIGKILL)
            process.wait()
            until = time.monotonic() + 60
            while in_session(process.pid) and time.monotonic() < until:
                time.sleep(0.05)
            problems = damage(root) + [f"process {pid} stayed" for pid in in_session(process.pid)]
            count.take(who, problems)
            if process.returncode == 0 or k % 3 == 2:
                problems = [] if start_command(aged(root), driver).wait() == 0 else ["the same command failed"]
                problems += compared(root, whole)
                count.lost += [f"{who}: {'; '.join(problems)}"] if problems else []
                shutil.rmtree(root)
    return count
