"""What the files of a store say, held against the configuration beside them.

That a JSON file has the form of its kind is asked before, by `formats.py`: numbers are numbers, and names are names.
All of this is asked of plain JSON values and bytes; nothing is built from them. Each function raises `Fault`, which
says what is wrong.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from moonbed._shown import printable
from moonbed.experiments.storage import formats

__all__ = [
    "Fault",
    "check_answer",
    "check_log",
    "check_pointer",
    "check_record",
    "check_samples",
    "in_a_line",
    "obeyed",
]

_STATE = re.compile(r"checkpoint-(?P<step>[0-9]{1,12})(?:[.][0-9a-f]{16})?[.]safetensors", re.ASCII)

_NPY = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)\{'descr': '<f(?P<size>[48])', 'fortran_order': False, "
    rb"'shape': \((?P<rows>[0-9]{1,12}), (?P<columns>[0-9]{1,6})\), \} *\n",
    re.DOTALL,
)


class Fault(ValueError):
    """What is wrong with a file."""


def check_record(record: dict[str, Any], spec: dict[str, Any], training: str, experiment: str) -> None:
    """Hold the record of a training, or of an experiment on it, against its configuration."""
    if record.get("id") != (experiment or training):
        raise Fault("is not the record of its folder")
    wanted = ("device", "versions", "seconds", *(("n", "exploded") if experiment else ("step", "parameters")))
    if lacking := [name for name in wanted if name not in record]:
        raise Fault(f"lacks what a record says: {', '.join(lacking)}")
    if experiment:
        good = record["status"] == "done" and record["n"] == spec["n"] and record.get("training") == training
        allowed = [{"samples.npy"}]
    else:
        good = all(step <= spec["steps"] for step in (record["step"], *record.get("resumed", [])))
        good = good and (record["status"] == "done" or "message" in record)
        least = {"weights.safetensors", "log.jsonl"}
        allowed = [least, least | {"snapshots.safetensors"}, *([set()] if record["status"] == "diverged" else [])]
    if not good or set(record["files"]) not in allowed:
        raise Fault("contradicts the configuration beside it")


def check_pointer(pointer: dict[str, Any], spec: dict[str, Any]) -> None:
    """Hold `checkpoint.json` against the configuration of its training."""
    named = _STATE.fullmatch(pointer["file"])
    good = named is not None and int(named["step"]) == pointer["step"]
    if not good or any(step > spec["steps"] for step in (pointer["step"], *pointer.get("resumed", []))):
        raise Fault("is no pointer to a state of this training")
    _check_steps([line["step"] for line in pointer["log"]], spec)


def check_answer(answer: dict[str, Any], n: int) -> None:
    """Hold the answer of a metric against the number of samples that it is about."""
    if answer.get("n") != n:
        raise Fault("holds no value of these samples")


def _check_steps(steps: list[int], spec: dict[str, Any]) -> None:
    if any(a >= b for a, b in zip([0, *steps], [*steps, spec["steps"] + 1], strict=True)):
        raise Fault("is no log of step and loss")


def check_log(data: bytes, spec: dict[str, Any]) -> None:
    """Hold the lines of a training's log against its number of steps."""
    _check_steps([step for step, _ in formats.log_lines(data)], spec)


def check_samples(data: bytes, n: int, dim: int | None) -> None:
    """Hold an .npy file against its shape: its header has to be the one that NumPy writes, and is not evaluated."""
    found = _NPY.match(data)
    if found is None or len(found[0]) != 10 + int.from_bytes(found["length"], "little") or len(found[0]) % 64:
        raise Fault("is no .npy file of floats in rows, version 1.0")
    rows, columns, size = int(found["rows"]), int(found["columns"]), int(found["size"])
    if rows != n or dim not in (None, columns):
        raise Fault(f"should be {n} x {dim or 'dim'} numbers, and is {rows} x {columns}")
    if len(data) - len(found[0]) != rows * columns * size:
        raise Fault("is longer or shorter than its header says")


def in_a_line(text: str) -> str:
    """A text of anybody's in one line that a terminal only prints, 300 characters of it."""
    return printable(" ".join(text.split()))[:300]


def obeyed(data: Any) -> str | None:
    """A text in JSON that a terminal would obey instead of print, None where there is none."""
    if isinstance(data, str):
        return data if any(unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\n\t" for c in data) else None
    inner = [*data, *data.values()] if isinstance(data, dict) else data if isinstance(data, list) else []
    return next(filter(None, map(obeyed, inner)), None)
