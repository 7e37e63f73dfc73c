"""Folders of a store from strangers: every JSON file of a finished and of an interrupted run, mutated and sealed anew.

Whoever writes a file can seal it, so a seal says nothing of what stands in it.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
with atheris.instrument_imports(include=["moonbed"]):
    from common import NOISE, Draw, Wrong, fuzz

    from moonbed.component import SpecError
    from moonbed.experiments import Store, run
    from moonbed.experiments.anatomy import PARTS, load_anatomy
    from moonbed.experiments.floors import load_floor, save_floor
    from moonbed.experiments.listing import listed
    from moonbed.experiments.lossfloor import loss_floor
    from moonbed.experiments.spec import Experiment, Training
    from moonbed.experiments.storage.folder import Folder, StoreError
    from moonbed.experiments.storage.runs import load_spec, log_of, save_checkpoint, save_spec, verify_run
    from moonbed.experiments.storage.seals import sealed
    from moonbed.experiments.stored import finished, held, questions, stored_result, stored_rows
    from moonbed.experiments.train import State, train
    from moonbed.experiments.weights import denoiser_in
    from moonbed.export.runs import export, find_run
    from moonbed.metrics.two_sample import SlicedW1
    from moonbed.networks.mlp import MLP
    from moonbed.report import tables
    from moonbed.serve.detail import detail
    from moonbed.serve.index import Index
    from moonbed.serve.models import weights_of

importlib.import_module("moonbed.serve.index").time.sleep = lambda seconds: None  # it waits for writers; here is none
METRICS = (SlicedW1(directions=16),)
SMALL = {"training.network": MLP(hidden=(4,)), "training.steps": 100, "training.batch": 16, "training.points": 100}
DONE = Experiment().replace(**SMALL, n=20, **{"sampler.steps": 2})
CUT = DONE.training.replace(seed=1, steps=200)
ROOT = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def made() -> Store:
    store = Store(ROOT / "runs")
    run([DONE], metrics=METRICS, store=store, device="cpu")
    state = State(CUT)
    next(train(CUT, state))
    save_spec(store.training(CUT), CUT)
    save_checkpoint(store.training(CUT), *state.snapshot(), 0.25)
    save_floor(store, DONE.training.target, METRICS[0], DONE.n, [0.1, 0.2, 0.3])
    values = {"W1": {part: [1.0, 2.0] for part in PARTS}}
    data = {"repeats": 2, "seeds": 1, "values": values, "score_error": {"capacity": {"sigma": [1.0], "error": [2.0]}}}
    store.experiment(DONE).write_json("anatomy.json", data)
    loss_floor(DONE.training, store, 50)
    return store


STORE = made()
BESIDE = (".lock", "index.sqlite", "index.sqlite-journal")
"""Files of a store that are no results, and come and go."""
KEPT = {path: path.read_bytes() for path in sorted(ROOT.rglob("*")) if path.is_file() and path.name not in BESIDE}
FILES = [path for path in KEPT if path.suffix == ".json"]
NAMES = ["../weights.safetensors", "weights.safetensors", "/dev/zero", "../../../x", "record.json", "done", "diverged"]
for path in FILES:
    NAMES += [*json.loads(KEPT[path])]


def place(path: Path) -> str:
    """What a seal says of where its file belongs, as the folder that reads it does."""
    above = path.parent.parent if path.parent.name == "metrics" else path.parent
    return f"{above.name}/{path.relative_to(above).as_posix()}"


def one(data: bytes) -> None:
    draw = Draw(data, NAMES)
    path = draw.one_of(FILES)
    how = draw.below(10)
    if how == 0:
        text = draw.from_.ConsumeBytes(4000)
    else:
        given = json.loads(KEPT[path])
        given = {key: value for key, value in given.items() if key not in ("seal", "place")}
        given = draw.mutated(given)
        try:
            text = sealed(given, place(path)) if isinstance(given, dict) else json.dumps(given).encode()
        except ValueError:
            return
    try:
        path.write_bytes(text)
        if draw.below(8) == 0 and (STORE.root / "index.sqlite").is_file():
            out = bytearray((STORE.root / "index.sqlite").read_bytes())
            for _ in range(draw.below(8)):
                out[draw.below(len(out))] = draw.below(256)
            (STORE.root / "index.sqlite").write_bytes(out)
        read(path, draw)
    finally:
        path.write_bytes(KEPT[path])
        found = {p for p in ROOT.rglob("*") if p.is_file() and p.name not in BESIDE}
        if found != KEPT.keys():
            raise Wrong(f"{found ^ KEPT.keys()} written or removed")


def shown() -> None:
    index = Index(STORE)
    for line in index.runs():  # of this, no damage is an error: the page shows it
        json.dumps(detail(index, line["id"]), allow_nan=False)


READERS = (
    lambda here: finished(STORE),
    lambda here: held(STORE, DONE),
    lambda here: questions(STORE, [DONE]),
    lambda here: tables.to_csv(stored_rows({"a": [DONE]}, METRICS, STORE)),
    lambda here: load_anatomy(STORE, DONE),
    lambda here: verify_run(here),
    lambda here: log_of(STORE.training(CUT)),
    lambda here: log_of(STORE.training(DONE.training)),
    lambda here: weights_of(STORE.training(CUT), CUT, None),
    lambda here: load_spec(here, Experiment),
    lambda here: load_spec(here, Training),
    lambda here: stored_result(STORE, DONE, METRICS),
    lambda here: denoiser_in(STORE, DONE, "cpu"),
    lambda here: export(find_run(DONE.id, STORE), "npy"),
    lambda here: load_floor(STORE, DONE.training.target, METRICS[0], DONE.n),
    lambda here: loss_floor(DONE.training, STORE, 50),
    lambda here: listed(STORE, ["n>1", "training.steps<1e3", "SlicedW1<2"], "-seconds", values=True),
    lambda here: shown(),
)


def read(path: Path, draw: Draw) -> None:
    """What reads a store, some of it; what it says of damage is taken, and the next one asked."""
    for _ in range(4):
        try:
            draw.one_of(READERS)(Folder(path.parent))
        except (StoreError, SpecError):
            continue


if __name__ == "__main__":
    try:
        fuzz(one, (StoreError, SpecError), NOISE)
    finally:
        shutil.rmtree(ROOT)
