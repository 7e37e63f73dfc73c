"""Every bit of a store turned over, every length that a file may be cut to, and files in the place of others.

The files are changed where the store reads them, in memory: `places.read` is the one way to them. What is detected is
what raises `StoreError` with the name of the file.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from faults_kills import stage_folder
from faults_subject import Child, Count, damage, results, work

from moonbed.experiments import Store, StoreError
from moonbed.experiments.storage import places
from moonbed.experiments.storage.folder import Folder
from moonbed.experiments.storage.runs import save_checkpoint

SMALL = 2_500
"""Files up to so many bytes have each of their bits turned over; of larger ones one bit of each byte."""


def whole_store(root: Path, seed: int = 0) -> None:
    """A finished training with snapshots and an experiment, floors, values of the exact denoiser, and an error budget;
    and a training that was cut off.
    """
    from faults_subject import asked, subject

    from moonbed.experiments.anatomy import Anatomy, save_anatomy
    from moonbed.experiments.lossfloor import loss_floor
    from moonbed.experiments.train import State, train

    work(root, seed)
    store, experiment = Store(root), subject(seed)
    loss_floor(experiment.training, store, rows=512)
    links = {"floor": [0.1, 0.2], "sampler": [0.1, 0.3], "capacity": [0.2, 0.3], "estimation": [0.3, 0.4 + seed]}
    save_anatomy(store, Anatomy(experiment, 2, 1, {}, {asked()[0].label: links}, {}))
    cut = experiment.training.replace(seed=1000 + seed)
    from moonbed.experiments.storage.runs import save_spec

    state = State(cut)
    next(train(cut, state))
    save_spec(store.training(cut), cut)
    save_checkpoint(store.training(cut), *state.snapshot(), 0.25, [])


def files_of(root: Path) -> list[Path]:
    """All files that hold something."""
    return sorted(
        p for p in root.rglob("*") if p.is_file() and p.name != ".lock" and p.suffix not in (".db", ".sqlite")
    )


def reader(root: Path, path: Path) -> Callable[[], object]:
    """The way in which the store reads a file."""
    parent = path.parent.parent if path.parent.name == "metrics" else path.parent
    folder, name = Folder(parent), path.relative_to(parent).as_posix()
    if path.suffix == ".json":
        return lambda: folder.read_json(name)
    if path.name.startswith("checkpoint-"):
        pointer = folder.read_json("checkpoint.json") or {}
        return lambda: folder.read(name, pointer["sha256"])
    sha256 = (folder.record() or {})["files"][name]
    return lambda: folder.listed(name, sha256)


@contextmanager
def replaced(path: Path, data: list[bytes]) -> Iterator[None]:
    """The file reads as the first of `data`, which the caller changes."""
    real = places.read

    def read(asked: Path) -> bytes:
        return data[0] if asked == path else real(asked)

    places.read = read
    try:
        yield
    finally:
        places.read = real


def noticed(read: Callable[[], object], path: Path) -> list[str]:
    """What is wrong with how damage is noticed."""
    try:
        read()
    except StoreError as error:
        return [] if str(path) in str(error) else [f"the message does not name {path.name}: {error}"]
    except Exception as error:
        return [f"{path.name}: {type(error).__name__}: {error}"]
    return [f"{path.name}: not noticed"]


def changed(good: bytes, every: int) -> Iterator[tuple[str, bytes]]:
    """(class, bytes) of all changes of a file."""
    bits = range(8) if len(good) <= SMALL else None
    for k in range(0, len(good), every):
        for bit in bits or (k % 8,):
            yield "a bit turned over", good[:k] + bytes([good[k] ^ (1 << bit)]) + good[k + 1 :]
        yield "cut short", good[:k]
        yield "a byte gone within", good[:k] + good[k + 1 :]
    for byte in range(0, 256, every):
        yield "longer", good + bytes([byte])
    yield "longer", good + good
    yield "zeros", bytes(len(good))


def damages(every: int = 1, seed: int = 0) -> list[Count]:
    """All changes of all files, and by a sample of them that the whole verification finds them as well."""
    counts: dict[str, Count] = {}
    chance = random.Random(seed)
    with stage_folder() as where:
        root, log = where / "runs", where / "log"
        if Child(lambda: whole_store(root), log).wait() != 0:
            raise RuntimeError(log.read_text())
        for path in files_of(root):
            good, read, kind = path.read_bytes(), reader(root, path), path.relative_to(root).parts[-1]
            kind = kind if path.parent.name not in ("metrics", "floors", "exact") else f"{path.parent.name}/*.json"
            data = [good]
            with replaced(path, data):
                read()
                for name, bad in changed(good, every):
                    data[0] = bad
                    problems = [] if bad == good else noticed(read, path)
                    if bad != good:
                        counts.setdefault(name, Count(name)).take(kind, problems)
                for _ in range(max(1, 20 // every)):
                    k = chance.randrange(len(good))
                    data[0] = good[:k] + bytes([good[k] ^ (1 << chance.randrange(8))]) + good[k + 1 :]
                    problems = [] if any(str(path) in line for line in damage(root)) else [f"{path}: not verified"]
                    counts.setdefault("verify", Count("a bit, by verifying the store")).take(kind, problems)
    return list(counts.values())


def misplaced(seed: int = 0) -> list[Count]:
    """Each file in the place of each other of its kind, from the same store and that of another seed; files gone."""
    moved, gone = Count("a whole file of another place"), Count("a file gone: named, or made again the same")
    with stage_folder() as where:
        root, other, log = where / "runs", where / "other", where / "log"
        for store, number in ((root, 0), (other, 1)):
            if Child(lambda store=store, number=number: whole_store(store, number), log).wait() != 0:
                raise RuntimeError(log.read_text())
        whole = results(root)
        here, strangers = files_of(root), files_of(root) + files_of(other)
        for path in here:
            read, good = reader(root, path), path.read_bytes()
            for stranger in strangers:
                data = [stranger.read_bytes()]
                if stranger.suffix == path.suffix and data[0] != good:
                    with replaced(path, data):
                        moved.take(
                            path.name if len(path.name) < 20 else f"{path.parent.name}/*.json", noticed(read, path)
                        )
        for path in here:
            copy = where / "copy"
            shutil.copytree(root, copy)
            (copy / path.relative_to(root)).unlink()
            if damage(copy):
                gone.take("named", [])
            else:
                child = Child(lambda copy=copy: whole_store(copy), log)
                problems = [] if child.wait() == 0 and results(copy) == whole else [f"{path.name} differs"]
                gone.take("made again", problems)
            shutil.rmtree(copy)
    return [moved, gone]
