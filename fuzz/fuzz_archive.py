"""Archives from strangers: entries renamed, mutated and sealed anew, links, bombs, and plain noise, all imported.

Whatever is in it, nothing may be written outside of the store that it goes into.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["moonbed"]):
    import fuzz_store as store
    from common import NOISE, Draw, Wrong, fuzz

    from moonbed.component import SpecError
    from moonbed.experiments.selection import select, verify
    from moonbed.experiments.storage.archive import MANIFEST, Archive, write_archive
    from moonbed.experiments.storage.files import Stored
    from moonbed.experiments.storage.folder import StoreError
    from moonbed.experiments.storage.store import Store
    from moonbed.experiments.storage.transfer import receive

ROOT = Path(tempfile.mkdtemp(dir=store.ROOT.parent))
OUT, FILE = ROOT / "a" / "b" / "store", ROOT / "given.zip"
*_, found = select(store.STORE, unfinished=True)
for _ in write_archive(FILE, Stored(store.STORE, found.names)):
    pass
WHOLE = FILE.read_bytes()
with zipfile.ZipFile(io.BytesIO(WHOLE)) as file:
    ENTRIES = {name: file.read(name) for name in file.namelist()}
NAMES = [
    *ENTRIES,
    *(name.rpartition("/")[2] for name in ENTRIES),
    "../../../x",
    "/tmp/x",
    "..\\x",
    "x\x00y",
    "C:x",
    "./x",
]
OUTSIDE = [FILE, ROOT / "a", ROOT / "a" / "b"]


def one(data: bytes) -> None:
    draw = Draw(data, NAMES)
    how = draw.below(8)
    if how == 0:
        content = bytes(draw.from_.ConsumeBytes(4000))
    elif how == 1:
        out = bytearray(WHOLE)
        for _ in range(1 + draw.below(8)):
            out[-1 - draw.below(min(len(out), 3000))] = draw.below(256)
        content = bytes(out)
    else:
        content = packed(draw)
    FILE.write_bytes(content)
    try:
        with Archive(FILE) as archive:
            into = Store(OUT)
            for _ in receive(archive, into):
                pass
            for _ in verify(into):
                pass
            store.finished(into)
    finally:
        there = {path for path in ROOT.rglob("*") if OUT not in (path, *path.parents)}
        if there - set(OUTSIDE) or any(path.is_symlink() for path in ROOT.rglob("*")) or Path("x").exists():
            raise Wrong(f"{there} is there")
        shutil.rmtree(ROOT / "a", ignore_errors=True)


def packed(draw: Draw) -> bytes:
    """A zip of the entries, some of them changed, with a manifest that mostly fits."""
    entries = dict(ENTRIES)
    for _ in range(1 + draw.below(3)):
        name = draw.one_of([*entries])
        how = draw.below(6)
        if how == 0:
            entries[draw.text().encode("utf-8", "replace").decode()] = entries[name]
        elif how == 1:
            del entries[name]
        elif how == 2:
            entries[name] = bytes(draw.from_.ConsumeBytes(400))
        elif name.endswith(".json") and name in ENTRIES:
            given = {k: v for k, v in json.loads(ENTRIES[name]).items() if k not in ("seal", "place")}
            place = MANIFEST if name == MANIFEST else store.place(ROOT / name)
            given = draw.mutated(given)
            with contextlib.suppress(ValueError):  # what cannot be sealed
                entries[name] = store.sealed(given, place) if isinstance(given, dict) else json.dumps(given).encode()
    manifest = json.loads(ENTRIES[MANIFEST])
    if draw.below(8):
        inner = {name: content for name, content in entries.items() if name != MANIFEST}
        files = {name: {"sha256": hashlib.sha256(c).hexdigest(), "size": len(c)} for name, c in inner.items()}
        fitting = {k: v for k, v in manifest.items() if k not in ("seal", "place")} | {"files": files}
        entries[MANIFEST] = store.sealed(fitting, MANIFEST)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if draw.below(4) == 0 else zipfile.ZIP_STORED) as file:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name.encode("utf-8", "replace").decode())
            if draw.below(20) == 0:
                info.external_attr = 0o120777 << 16  # a link
            file.writestr(info, content)
    return out.getvalue()


if __name__ == "__main__":
    os.chdir(ROOT.parent)
    try:
        fuzz(one, (StoreError, SpecError), NOISE)
    finally:
        shutil.rmtree(ROOT)
        shutil.rmtree(store.ROOT)
