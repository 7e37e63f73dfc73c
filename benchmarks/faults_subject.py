"""What is disturbed: a small experiment, worked on by processes that are forked from one that has imported everything.

A child asks nothing of the code that it runs: where it is when it is killed is read off its stack, which `faulthandler`
writes from within a signal handler, whatever the interpreter does at that moment.
"""

from __future__ import annotations

import faulthandler
import hashlib
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moonbed.experiments import Experiment, Store, StoreError
from moonbed.experiments.presets import PRESETS
from moonbed.experiments.rows import follow
from moonbed.experiments.storage.folder import Folder
from moonbed.experiments.storage.runs import verify_run

DRAWS = 3
WORDS = (
    *("run", "ema", "training.steps=600", "training.batch=32", "training.points=256", "sampler.steps=60", "n=60"),
    'training.network={"type": "MLP", "hidden": [8], "embedding": {"type": "Fourier", "width": 8}}',
    'training.averaging={"type": "PowerEMA", "snapshots": 3}',
    *("--metrics", '{"type": "SlicedW1", "directions": 16},{"type": "Energy"}'),
    *("--draws", str(DRAWS), "--device", "cpu", "--report", "none"),
)
PLACES = {  # file, function or "" for all -> stage; the innermost frame that is known decides
    ("places.py", ""): "write",
    ("runs.py", "save_checkpoint"): "write",
    ("folder.py", "finish"): "write",
    ("seals.py", "sealed"): "write",
    ("floors.py", "null_draw"): "floor",
    ("evaluate.py", "generate"): "sample",
    ("evaluate.py", "evaluate"): "evaluate",
    ("evaluate.py", "answer"): "evaluate",
    ("train.py", ""): "train",
    ("together.py", ""): "train",
    ("gradients.py", ""): "train",
}
PATIENCE = 300


@dataclass
class Count:
    """A line of the table: how often a fault was tried, and of how many it is not true that nothing was lost."""

    fault: str
    tried: int = 0
    lost: list[str] = field(default_factory=list)
    stages: Counter[str] = field(default_factory=Counter)

    def take(self, stage: str, problems: list[str]) -> None:
        """Note one try."""
        self.tried += 1
        self.stages[stage] += 1
        self.lost += [f"{self.fault}, {stage}: {'; '.join(problems)}"] if problems else []


def subject(seed: int = 0) -> Experiment:
    """The experiment of `WORDS`."""
    from moonbed.component import parse_overrides

    (changes,) = parse_overrides([w for w in WORDS if w.startswith(("training.", "sampler.", "n="))])
    return PRESETS["ema"].replace(**changes).replace(**{"training.seed": seed})


def asked() -> list[Any]:
    """The metrics of `WORDS`."""
    from moonbed.metrics.two_sample import Energy, SlicedW1

    return [SlicedW1(directions=16), Energy()]


def work(root: Path, seed: int = 0) -> None:
    """Train, sample, evaluate and draw floors, with a checkpoint after every block."""
    frequent()
    for _, event in follow({"subject": [subject(seed)]}, asked(), DRAWS, Store(root), "cpu"):
        if type(event).__name__ == "Failure":
            raise StoreError(event.message) if not event.trace else RuntimeError(event.trace)


def frequent() -> None:
    """Save after every block."""
    importlib.import_module("moonbed.experiments.session").CHECKPOINT_SECONDS = 0.0


def command(root: Path) -> None:
    """The same as a command, in this process: with its output, its messages and its exit status.

    At its end signals are ignored, as the command has it.
    """
    from moonbed.__main__ import main

    frequent()
    sys.argv[1:] = [*WORDS, "--jobs", "1", "--store", str(root)]
    main()


# Children


class Child:
    """`do()` in a process of its own. Its output goes to a file, its stack to a pipe whenever it gets SIGUSR1."""

    def __init__(self, do: Callable[[], None], log: Path) -> None:
        self.log, (self._stack, theirs) = log, os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])  # until the child can answer it
        self.pid = os.fork()
        if self.pid == 0:
            self._run(do, theirs)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        os.close(theirs)
        self.code: int | None = None

    def _run(self, do: Callable[[], None], pipe: int) -> None:
        code = 70
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            out = os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666)
            for number in (1, 2):
                os.dup2(out, number)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
            faulthandler.register(signal.SIGUSR1, file=pipe, all_threads=False)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
            do()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        except StoreError as error:
            sys.stderr.write(f"StoreError: {error}\n")
            code = 2
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def stage(self) -> str:
        """Where it is now; empty where it has ended."""
        if self.poll() is not None:
            return ""
        os.kill(self.pid, signal.SIGUSR1)
        text, until = b"", time.monotonic() + 10
        while not text.endswith((b"in <module>\n", b"  ...\n")) and time.monotonic() < until:
            if select.select([self._stack], [], [], 0.5)[0]:
                piece = os.read(self._stack, 65536)
                if not piece:
                    break
                text += piece
        for line in text.decode().splitlines():
            if '"' in line:
                file, function = Path(line.split('"')[1]).name, line.rpartition(" in ")[2]
                for key in ((file, function), (file, "")):
                    if key in PLACES:
                        return PLACES[key]
        return "between"

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._end(status)
        return self.code

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """Its exit status; None where it still runs after so long."""
        until, pause = time.monotonic() + seconds, 0.001
        while self.poll() is None and time.monotonic() < until:
            time.sleep(min(pause, max(0.0, until - time.monotonic())))
            pause = min(2 * pause, 0.02)
        return self.code

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal and wait for the end."""
        if self.poll() is None:
            os.kill(self.pid, number)
        if self.wait() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
            self.code = 124
        assert self.code is not None
        return self.code

    def _end(self, status: int) -> None:
        self.code = os.waitstatus_to_exitcode(status)
        os.close(self._stack)


# What must be true


def results(root: Path) -> dict[str, str]:
    """Name -> digest of all that was computed; of a record, without how long it took and where it was cut."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if not path.is_file() or path.name.startswith(".") or path.suffix in (".db", ".sqlite", ".html"):
            continue
        data = path.read_bytes()
        if path.name == "record.json":
            record = {k: v for k, v in json.loads(data).items() if k not in ("seconds", "resumed", "seal")}
            data = json.dumps(record, sort_keys=True).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def damage(root: Path) -> list[str]:
    """What verification finds in a store."""
    found = []
    for folder in (Folder(path) for path in [*root.glob("*"), *root.glob("*/*")] if path.is_dir()):
        try:
            verify_run(folder)
        except StoreError as error:
            found.append(str(error))
    return found


def leftovers(root: Path) -> list[str]:
    """Files that only a process at work should have."""
    paths = [path for pattern in (".*.*.????????", "checkpoint*") for path in root.rglob(pattern)]
    return [f"{path.relative_to(root)} was left" for path in paths]


def aged(root: Path) -> Path:
    """A store with half written files that are two hours old: what is left outside of trainings is swept after one."""
    for path in root.rglob(".*.*.????????"):
        os.utime(path, (time.time() - 7200,) * 2)
    return root


def compared(root: Path, whole: dict[str, str]) -> list[str]:
    """What differs from an undisturbed run, and what was left over."""
    found = results(root)
    names = sorted(name for name in {*whole, *found} if whole.get(name) != found.get(name))
    return [f"{name} differs" for name in names] + leftovers(root) + damage(root)


def spoken(log: Path) -> list[str]:
    """Tracebacks in what a child said."""
    text = log.read_text() if log.exists() else ""
    return [f"a traceback: {text[-2000:]}"] if "Traceback" in text else []


def numbered(root: Path) -> Iterator[Path]:
    """Fresh folders."""
    k = 0
    while True:
        path = root / f"{k:04d}"
        path.mkdir(parents=True)
        yield path
        k += 1
