"""Weights and samples from strangers: safetensors and .npy in a store whose record has their right checksums."""

from __future__ import annotations

import hashlib
import json
import struct

import atheris

with atheris.instrument_imports(include=["moonbed"]):
    import fuzz_store as store
    from common import NOISE, Draw, fuzz

    from moonbed.component import SpecError
    from moonbed.experiments.storage.folder import StoreError

TRAINING, SAMPLES = store.STORE.training(store.DONE.training), store.STORE.experiment(store.DONE)
CUT = store.STORE.training(store.CUT)
PLACES = (
    (TRAINING, "weights.safetensors"),
    (SAMPLES, "samples.npy"),
    (TRAINING, "log.jsonl"),
    (CUT, "checkpoint-100.safetensors"),
)
RIGHT = {folder.path / name: (folder.path / name).read_bytes() for folder, name in PLACES}
TYPES = ["F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "C64", "f4", "<f8", "<c16", "O", "<M8[s]"]


def changed(draw: Draw, content: bytes, name: str) -> bytes:
    """The file with its header changed as JSON or as bytes, and its data cut, doubled or replaced."""
    how = draw.below(5)
    if how == 0:
        return bytes(draw.from_.ConsumeBytes(2000))
    if how == 1 or not name.endswith(".safetensors"):
        out = bytearray(content)
        for _ in range(1 + draw.below(6)):
            out[draw.below(min(len(out), 400))] = draw.below(256)
        return bytes(out) + bytes(draw.from_.ConsumeBytes(16))
    (size,) = struct.unpack("<Q", content[:8])
    header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    header = draw.mutated(header)
    if how == 2:
        body = body[: draw.below(len(body) + 1)]
    if how == 3:
        body = struct.pack("<f", draw.from_.ConsumeFloat() % 3e38) * (len(body) // 4)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def one(data: bytes) -> None:
    draw = Draw(
        data, [*TYPES, "network.0.weight", "averages", "snapshot.x", "optimizer.0", "optimizer.x.y", "dtype", "shape"]
    )
    folder, name = draw.one_of(PLACES)
    content = changed(draw, RIGHT[folder.path / name], name)
    pointer = "checkpoint.json" if folder is CUT else "record.json"
    record = json.loads(store.KEPT[folder.path / pointer])
    del record["seal"], record["place"]
    sha256 = hashlib.sha256(content).hexdigest()
    if folder is CUT:
        record["sha256"] = sha256
    else:
        record["files"][name] = sha256
    try:
        (folder.path / name).write_bytes(content)
        (folder.path / pointer).write_bytes(store.sealed(record, f"{folder.path.name}/{pointer}"))
        store.read(folder.path / pointer, draw)
        if draw.below(2):
            store.denoiser_in(store.STORE, store.DONE, "cpu")
    finally:
        (folder.path / name).write_bytes(RIGHT[folder.path / name])
        (folder.path / pointer).write_bytes(store.KEPT[folder.path / pointer])


if __name__ == "__main__":
    try:
        fuzz(one, (StoreError, SpecError), NOISE)
    finally:
        store.shutil.rmtree(store.ROOT)
