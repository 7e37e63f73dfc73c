"""The index: what every experiment folder of a store says, in one file, so that 10,000 runs need not be opened.

It is never the truth. Each look compares what the index knows of a folder (time, size and inode of `record.json` and
`experiment.json`, time of the folder of the metrics) with what is there, and reads again what differs. So it may be
removed, damaged, locked, of another version or not writable at all: then folders are read instead, and nothing breaks.
Rows are kept in memory; SQLite (`index.sqlite` in the root, `~/.cache/moonbed` for a URL) only keeps them between
processes, each row with a checksum. A store open for reading reads the file, if there is one, and never writes it.

Experiments that are equal up to the seeds of their trainings share one configuration, kept once. The values of metrics
are read when they are first asked for; they are most of what there is to read.
"""

from __future__ import annotations

import copy
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from moonbed.component import digest
from moonbed.experiments.storage import places

if TYPE_CHECKING:
    from moonbed.experiments.storage.folder import Folder
    from moonbed.experiments.storage.store import Store

__all__ = ["APART", "Index", "Run", "moved"]

NAME = "index.sqlite"
SCHEMA = 2
APART = frozenset({"floors", "exact"})
"""Folders of a store that are no trainings."""
SETTLED = 0.1
"""Seconds after which the time of a file tells two of its versions apart."""
COARSE = 2.0
"""The same under a URL, where times are often whole seconds."""
PATIENCE = 2.0
"""Seconds to wait for another process that writes the index."""


class Run(NamedTuple):
    """What the folder of an experiment says: done, unfinished (without a record) or damaged (`message` says how).

    `configuration` is a digest of the spec but for the seeds; `asked` the number of metrics; `time` that of the record,
    `changed` of whatever came last.
    """

    training: str
    id: str
    status: str
    message: str
    n: int
    exploded: int
    seconds: float
    time: float
    seed: int
    configuration: str
    asked: int
    changed: float


class _Row(NamedTuple):
    stamp: str
    run: Run
    values: str | None  # JSON, metric id -> value; None: not read yet


_Key = tuple[str, str]


class Index:
    """The runs of a store as they are now; `look` brings it up to date, and costs what listing the folders costs."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.file = _file_of(store)
        self.kept = False
        self._rows: dict[_Key, _Row] = {}
        self._specs: dict[str, str] = {}
        self._metrics: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._loaded = False

    def look(self, anew: bool = False) -> list[Run]:
        """All experiments, by the time of their record; with `anew` nothing that was known is believed.

        Raises `StoreError` where the store itself cannot be read.
        """
        if anew:
            self._rows, self._specs, self._metrics, self._names, self._loaded = {}, {}, {}, {}, True
            _forget(self.file)
        elif not self._loaded:
            self._load()
        seen = _listed(self.store)
        gone = [key for key in self._rows if key not in seen]
        changed = [key for key, stamp in seen.items() if key not in self._rows or self._rows[key].stamp != stamp]
        for key in gone:
            del self._rows[key]
        for key in changed:
            self._rows[key] = self._read(key, seen[key])
        self._save(changed, gone)
        return self.known()

    def known(self) -> list[Run]:
        """The same as at the last look."""
        return sorted((row.run for row in self._rows.values()), key=lambda run: (run.time, run.id))

    def spec(self, run: Run) -> dict[str, Any]:
        """The spec of an experiment."""
        return moved(self.configuration(run), run.seed)

    def configuration(self, run: Run) -> dict[str, Any]:
        """The spec with the seeds of trainings moved so that that of its own is 0; empty for a damaged run."""
        return json.loads(self.configuration_text(run))

    def configuration_text(self, run: Run) -> str:
        """The same as JSON, one text for all that have it."""
        return self._specs.get(run.configuration, "{}")

    def names(self, runs: Iterable[Run], version: str, make: Callable[[dict[str, Any]], str]) -> dict[str, str]:
        """Configuration -> its name, which `make` makes of the spec, once a version."""
        if self._names.get("") != version:
            self._names = {"": version}
        fresh = {run.configuration for run in runs} - self._names.keys()
        fresh &= self._specs.keys()
        self._names |= {key: make(json.loads(self._specs[key])) for key in fresh}
        if fresh:
            self._write(lambda base: _keep_names(base, version, {key: self._names[key] for key in fresh}))
        return self._names

    def values(self, runs: Sequence[Run]) -> dict[str, dict[str, float]]:
        """Id of a run -> id of a metric -> value; of a metric whose file is damaged there is none.

        Nor is there of one that cannot be read now, and then the run's are asked for again the next time.
        """
        fresh = [(run.training, run.id) for run in runs if self._rows[run.training, run.id].values is None]
        unread: dict[str, dict[str, float]] = {}
        for key in fresh:
            found = {}
            texts = [*_answers(self.store.folder(*key))]
            for text in filter(None, texts):
                with suppress(Exception):  # damaged: whoever looks at the run itself is told
                    stored = _quickly(text)
                    if not isinstance(stored["metric"], dict):
                        continue
                    metric = digest(stored["metric"])
                    found[metric] = float(stored["value"])
                    if metric not in self._metrics:
                        self._metrics[metric] = json.dumps(stored["metric"])
            if None in texts:
                unread[key[1]] = found
            else:
                self._rows[key] = self._rows[key]._replace(values=json.dumps(found))
        self._save([key for key in fresh if key[1] not in unread], [])
        return {run.id: json.loads(self._rows[run.training, run.id].values or "{}") for run in runs} | unread

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Id -> spec of the metrics whose values were read."""
        found = {key: json.loads(text) for key, text in self._metrics.items()}
        return {key: spec for key, spec in found.items() if isinstance(spec, dict)}

    def _read(self, key: _Key, stamp: str) -> _Row:
        training, name = key
        folder = self.store.folder(training, name)
        now, written = time.time(), next(iter(_times(stamp)), 0.0)
        try:
            run = self._run(training, name, folder, written)
        except Exception as error:  # whatever a folder holds, the other runs are shown
            message = str(error) or type(error).__name__
            run = Run(training, name, "damaged", message, 0, 0, 0.0, written, 0, "", 0, 0.0)
        newest = max(_times(stamp), default=0.0)
        settled = run.status != "damaged" and newest < now - (COARSE if places.remote(self.store.root) else SETTLED)
        return _Row(stamp if settled else "", run._replace(changed=newest), None)

    def _run(self, training: str, name: str, folder: Folder, written: float) -> Run:
        from moonbed.experiments.storage.folder import StoreError

        record = folder.record()
        try:
            spec = json.loads(folder.read("experiment.json"))["spec"]
            intact = digest(spec) == name
        except (ValueError, KeyError, TypeError, RecursionError):
            intact = False
        if not intact:  # the id is a checksum of the configuration; the seal is looked at by whoever reads all of it
            path = folder.path / "experiment.json"
            raise StoreError(f"{path} is damaged, or not what its folder is named for; remove {folder.path} to redo it")
        seed = int(spec["training"]["seed"])
        plain = moved(spec, -seed)
        configuration = name if seed == 0 else digest(plain)
        if configuration not in self._specs:
            self._specs[configuration] = json.dumps(plain)
        base = Run(training, name, "unfinished", "", int(spec["n"]), 0, 0.0, written, seed, configuration, 0, 0.0)
        asked = _count(folder)
        if record is None:
            return base._replace(asked=asked)
        exploded, seconds = int(record["exploded"]), float(record["seconds"])
        return base._replace(status=str(record["status"]), asked=asked, exploded=exploded, seconds=seconds)

    # Between processes

    def _load(self) -> None:
        """What the file knows; nothing where there is none that can be read."""
        self._loaded = True
        if self.file is None or not self.file.is_file():
            return
        try:
            with closing(_connect(self.file, write=False)) as base:
                if base.execute("PRAGMA user_version").fetchone() != (SCHEMA,):
                    return
                rows = base.execute("SELECT * FROM runs").fetchall()
                tables = [dict(base.execute(f"SELECT key, text FROM {name}")) for name in _TEXTS]
            good = [row for row in rows if row[-1] == _sum(row[:-1])]
            found = {(row[0], row[1]): _Row(row[-3], Run(*row[:-3]), row[-2]) for row in good}
        except (sqlite3.Error, OSError, ValueError, TypeError):
            return
        self._specs, metrics, self._names = tables
        self._metrics = {key: text for key, text in metrics.items() if _digests_to(text, key)}
        intact = {key for key, text in self._specs.items() if _digests_to(text, key)} | {""}
        self._rows = {key: row for key, row in found.items() if row.run.configuration in intact}

    def _save(self, changed: Sequence[_Key], gone: Sequence[_Key]) -> None:
        if not (changed or gone):
            return
        rows = [(*self._rows[k].run, self._rows[k].stamp, self._rows[k].values) for k in changed]
        rows, gone = [row for row in rows if _is_text(row)], [key for key in gone if _is_text(key)]
        used = {self._rows[key].run.configuration for key in changed}
        specs = {key: self._specs[key] for key in used & self._specs.keys()}
        marks = ", ".join("?" * (len(Run._fields) + 3))

        def write(base: sqlite3.Connection) -> None:
            base.executemany("DELETE FROM runs WHERE training = ? AND id = ?", gone)
            base.executemany(f"INSERT OR REPLACE INTO runs VALUES ({marks})", [(*row, _sum(row)) for row in rows])
            base.executemany("INSERT OR REPLACE INTO specs VALUES (?, ?)", specs.items())
            base.executemany("INSERT OR REPLACE INTO metrics VALUES (?, ?)", self._metrics.items())

        self._write(write)

    def _write(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Do it in one transaction; where that fails, the file is left or thrown away, and the rows are in memory."""
        if self.file is None or self.store.readonly:
            return
        try:
            with closing(_connect(self.file, write=True)) as base, base:
                base.execute("BEGIN IMMEDIATE")
                if base.execute("PRAGMA user_version").fetchone() != (SCHEMA,):
                    _create(base)
                work(base)
            self.kept = True
        except sqlite3.OperationalError:  # locked, no space, no right to write
            return
        except (sqlite3.Error, OSError, ValueError):  # ValueError: what sqlite says of damage may be no text
            _forget(self.file)


_TEXTS = ("specs", "metrics", "names")


def moved(spec: Mapping[str, Any], by: int) -> dict[str, Any]:
    """The spec of an experiment with the seeds of its trainings, of teachers and a guide too, moved by a number."""
    out = copy.copy(dict(spec))
    for place in ("training", "guide"):
        out[place] = _moved(out.get(place), by)
    return out


def _moved(training: Any, by: int) -> Any:
    if training is None:
        return None
    return {**training, "seed": training["seed"] + by, "teacher": _moved(training.get("teacher"), by)}


def _listed(store: Store) -> dict[_Key, str]:
    """(training, experiment) -> stamp, of every folder that holds an experiment or its record."""
    if places.remote(store.root):
        return _listed_there(store)
    from moonbed.experiments.storage.folder import StoreError

    out: dict[_Key, str] = {}
    try:
        with os.scandir(store.root) as entries:
            trainings = [e for e in entries if e.name not in APART and e.name[:1] != "." and e.is_dir()]
    except FileNotFoundError:
        return out
    except OSError as error:
        raise StoreError(f"cannot read {store.root}: {error.strerror or error}") from None
    for training in trainings:
        try:
            with os.scandir(training.path) as entries:
                inner = [e for e in entries if e.is_dir()]
        except OSError:
            continue
        for entry in inner:
            record, experiment = _stamp(f"{entry.path}/record.json"), _stamp(f"{entry.path}/experiment.json")
            if record != "-" or experiment != "-":
                out[training.name, entry.name] = f"{record}|{experiment}|{_stamp(f'{entry.path}/metrics')}"
    return out


def _listed_there(store: Store) -> dict[_Key, str]:
    found = store.folder().names("*/*/record.json", "*/*/experiment.json", "*/*/metrics/*.json")
    parts: dict[_Key, dict[str, places.Found]] = {}
    for name, seen in found.items():
        training, experiment, rest = name.split("/", 2)
        parts.setdefault((training, experiment), {})[rest] = seen
    out = {}
    for key, files in parts.items():
        told = files.get("record.json") or files.get("experiment.json")
        if told is not None:
            newest = max(seen.time for seen in files.values())
            out[key] = f"{int(told.time * 1e9)}|{int(newest * 1e9)} {digest(sorted(files.items()))}"
    return out


def _stamp(path: str) -> str:
    try:
        found = os.stat(path)  # noqa: PTH116 (ten thousands a second)
    except OSError:
        return "-"
    return f"{found.st_mtime_ns} {found.st_size} {found.st_ino}"


def _times(stamp: str) -> list[float]:
    """Seconds since 1970 of the record, the configuration and the metrics, without those that are not there."""
    return [int(part.split()[0]) / 1e9 for part in stamp.split("|") if part[:1].isdigit()]


def _count(folder: Folder) -> int:
    if places.remote(folder.path):
        return len(folder.names("metrics/*.json"))
    try:
        with os.scandir(folder.path / "metrics") as entries:
            return sum(e.name.endswith(".json") for e in entries)
    except OSError:
        return 0


def _answers(folder: Folder) -> Iterator[bytes | None]:
    """The texts of the metrics of an experiment; None for what cannot be read."""
    if places.remote(folder.path):
        for name in folder.names("metrics/*.json"):
            try:
                yield folder.read(name)
            except Exception:
                yield None
        return
    try:
        with os.scandir(folder.path / "metrics") as entries:
            paths = sorted(e.path for e in entries if e.name.endswith(".json"))
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            yield None
        return
    for path in paths:
        try:
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (ten thousands)
                yield file.read()
        except OSError:
            yield None


def _quickly(text: bytes) -> dict[str, Any]:
    """A sealed JSON object whose content is that of its seal; that every byte is in its place is not looked at."""
    data: dict[str, Any] = json.loads(text)
    if data.pop("seal") != digest(data):
        raise ValueError("the content does not match its seal")
    return data


# The file


def _file_of(store: Store) -> Path | None:
    """Where the rows of a store are kept; None for nowhere."""
    if not places.remote(store.root):
        return store.root / NAME
    if store.processes(2) == 1:
        return None
    with suppress(RuntimeError, OSError):  # no home
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moonbed"
        if not store.readonly:
            cache.mkdir(parents=True, exist_ok=True)
        return cache / f"{digest(str(store.root))}.sqlite"
    return None


def _connect(path: Path, write: bool) -> sqlite3.Connection:
    mode = "rwc" if write else "ro"
    base = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", PATIENCE, uri=True, isolation_level=None)
    base.execute("PRAGMA synchronous = OFF")  # what a power cut destroys is made again
    return base


def _create(base: sqlite3.Connection) -> None:
    for name in ("runs", *_TEXTS):
        base.execute(f"DROP TABLE IF EXISTS {name}")
    columns = ", ".join([*Run._fields, "stamp", "answers", "sum"])
    base.execute(f"CREATE TABLE runs ({columns}, PRIMARY KEY (training, id)) WITHOUT ROWID")
    for name in _TEXTS:
        base.execute(f"CREATE TABLE {name} (key PRIMARY KEY, text)")
    base.execute(f"PRAGMA user_version = {SCHEMA}")


def _keep_names(base: sqlite3.Connection, version: str, names: Mapping[str, str]) -> None:
    if base.execute("SELECT text FROM names WHERE key = ''").fetchone() != (version,):
        base.execute("DELETE FROM names")
    base.executemany("INSERT OR REPLACE INTO names VALUES (?, ?)", [("", version), *names.items()])


def _forget(path: Path | None) -> None:
    if path is not None:
        for name in (path.name, f"{path.name}-journal"):
            with suppress(OSError):
                path.with_name(name).unlink(missing_ok=True)


def _sum(row: Sequence[Any]) -> int:
    return zlib.crc32(repr(tuple(row)).encode("utf-8", "replace"))


def _is_text(row: Sequence[Any]) -> bool:
    """Whether SQLite can keep it: names of files may be in no encoding."""
    try:
        "".join(value for value in row if isinstance(value, str)).encode()
    except UnicodeEncodeError:
        return False
    return True


def _digests_to(text: str, key: str) -> bool:
    try:
        return digest(json.loads(text)) == key
    except (ValueError, TypeError, RecursionError):
        return False
