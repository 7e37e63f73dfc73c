"""Stores that are full, read-only, shared by several processes, and commands whose readers have gone away."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from faults_kills import DRIVER, Starts, stage_folder, start_command
from faults_subject import Child, Count, aged, command, compared, damage, leftovers, results, spoken, work


@contextmanager
def tiny_disk(where: Path, size: int):
    """A file system in memory of so many bytes; None where this process may not mount one."""
    where.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(where)], capture_output=True)
    try:
        yield where if made.returncode == 0 else None
    finally:
        if made.returncode == 0:
            subprocess.run(["umount", "-l", str(where)], check=True)


def resized(disk: Path, option: str) -> None:
    """Mount a disk again with another option."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(disk)], check=True)


def full(step: int = 4096) -> Count:
    """A disk with a page more at each try: until it is enough, the command says that it is full and breaks nothing."""
    count = Count("a full disk (tmpfs), a page more each time")
    with stage_folder() as where:
        starts, log = Starts(where), where / "log"
        with tiny_disk(where / "disk", step) as disk:
            size, code = step, 2
            while disk is not None and code == 2 and size < 1_000_000:
                log.write_text("")
                child = Child(lambda: command(disk / "runs"), log)
                code = child.wait() or 0
                if code == 0:
                    break
                text = log.read_text()
                problems = damage(disk / "runs") + spoken(log)
                problems += [] if code == 2 and "No space left" in text else [f"status {code}: {text}"]
                temporary = [name for name in leftovers(disk / "runs") if "checkpoint" not in name]
                count.take(f"{size // 4096 * 4} kB", problems + temporary)
                size += step
                resized(disk, f"size={size}")
            if disk is not None:
                problems = compared(disk / "runs", starts.whole)
                count.lost += [f"in the end: {'; '.join(problems)}"] if problems else []
    return count


def readonly() -> Count:
    """A store that cannot be written, half done and done: by its rights as another user, or mounted read-only."""
    count = Count("a folder that cannot be written")
    with stage_folder() as where:
        starts, log = Starts(where), where / "log"
        for stage in ("train", "sample", "evaluate", "floor"):
            root = starts.store(stage)
            before = results(root)
            if os.geteuid() == 0:
                for path in (where, root):
                    path.chmod(0o755)
                log.write_text("")
                log.chmod(0o666)
                _refused(count, Child(lambda root=root: (os.setuid(65534), command(root)), log), root, before, "rights")
                with tiny_disk(where / f"disk-{stage}", 1 << 20) as disk:
                    if disk is not None:
                        shutil.copytree(root, disk / "runs")
                        resized(disk, "ro")
                        log.write_text("")
                        child = Child(lambda disk=disk: command(disk / "runs"), log)
                        _refused(count, child, disk / "runs", before, "mounted read-only")
            else:
                root.chmod(0o555)
                _refused(count, Child(lambda root=root: command(root), log), root, before, "rights")
                root.chmod(0o755)
    return count


def _refused(count: Count, child: Child, root: Path, before: dict[str, str], how: str) -> None:
    code = child.wait()
    problems = spoken(child.log) + ([] if code == 2 and "cannot write" in child.log.read_text() else [f"status {code}"])
    count.take(how, problems + ([] if results(root) == before else ["something changed"]))


def together(tries: int, seed: int = 0) -> Count:
    """Several processes on one store, one of which may be killed: the others end well, with the same bytes."""
    count = Count("2 to 4 processes on one run, one killed in half of the tries")
    chance = random.Random(seed)
    with stage_folder() as where:
        starts = Starts(where)
        seconds = starts.seconds(work, "train")
        for k in range(tries):
            root, number = starts.store("train"), chance.randint(2, 4)
            logs = [where / f"log{i}" for i in range(number)]
            children = [Child(lambda root=root: work(root), log) for log in logs]
            if k % 2:
                children[0].wait(chance.uniform(0, 2 * seconds))
                children[0].kill()
            codes = [child.wait() for child in children]
            problems = [f"status {code}" for code in codes[k % 2 :] if code != 0]
            if k % 2:
                problems += _again(root, logs[0])
            problems += compared(root, starts.whole) + [p for log in logs for p in spoken(log)]
            count.take(f"{number} processes", problems)
            shutil.rmtree(root)
    return count


def _again(root: Path, log: Path) -> list[str]:
    return [] if Child(lambda: work(aged(root)), log).wait() == 0 else ["the same command failed"]


def pipes() -> Count:
    """Nobody reads the output of a whole command, or its progress: the work is done all the same."""
    count = Count("a closed pipe")
    with stage_folder() as where:
        driver = where / "driver.py"
        driver.write_text(DRIVER)
        start_command(where / "whole", driver, 1).wait()
        whole = results(where / "whole")
        for closed in ("stdout", "stderr"):
            root, (ours, theirs) = where / closed, os.pipe()
            process = start_command(root, driver, 2, **{closed: theirs})
            os.close(ours)
            os.close(theirs)
            problems = [] if process.wait() == 0 else [f"status {process.returncode}"]
            count.take(closed, problems + compared(root, whole))
    return count


def startup(tries: int, seed: int = 0) -> Count:
    """Ctrl-C to a whole command from its first moments on, also while it imports."""
    count, chance = Count("SIGINT to a whole command while it starts"), random.Random(seed)
    with stage_folder() as where:
        driver = where / "driver.py"
        driver.write_text(DRIVER)
        for _ in range(tries):
            log = where / "log"
            with log.open("w") as file:
                process = start_command(where / "runs", driver, 1, stderr=file, preexec_fn=_default)
                time.sleep(chance.uniform(0.3, 4))
                process.send_signal(signal.SIGINT)
                code = process.wait()
            early = code == -signal.SIGINT or (code == 1 and "site" in log.read_text())  # Python itself was starting
            problems = [] if code in (130, 0) or early else [f"status {code}"]
            count.take("Python itself" if early else "imports", problems + ([] if early else spoken(log)))
    return count


def _default() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
