"""What the files of a store hold, by kind: numbers where numbers belong, and no word against another file.

A seal says that a text is whole, not that it makes sense. All of this is asked of plain JSON values and bytes; nothing
is built from them. Each function raises `Fault`, which says what is wrong.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

from moonbed._shown import printable

__all__ = [
    "Fault",
    "are_numbers",
    "check_anatomy",
    "check_answer",
    "check_log",
    "check_pointer",
    "check_record",
    "check_samples",
    "in_a_line",
    "is_number",
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
    own, listed = experiment or training, record.get("files")
    if record.get("id") != own or not isinstance(listed, dict):
        raise Fault("is not the record of its folder")
    numbers, words = ("n", "exploded") if experiment else ("step", "parameters"), ("status", "device")
    if not all(isinstance(record.get(k), str) for k in words) or not isinstance(record.get("versions"), dict):
        raise Fault("lacks what a record says: status, device, versions")
    if any(type(record.get(k)) is not int or record[k] < 0 for k in numbers):
        raise Fault(f"lacks numbers: {' and '.join(numbers)}")
    if not is_number(record.get("seconds")):
        raise Fault("lacks a number: seconds")
    allowed: list[set[str]]
    if experiment:
        good = record["status"] == "done" and record["n"] == spec["n"] and record.get("training") == training
        allowed = [{"samples.npy"}]
    else:
        good = record["status"] in ("done", "diverged") and record["step"] <= spec["steps"]
        good = good and (record["status"] == "done" or isinstance(record.get("message"), str))
        good = good and _are_steps(record.get("resumed", []), spec["steps"])
        least = {"weights.safetensors", "log.jsonl"}
        allowed = [least, least | {"snapshots.safetensors"}, *([set()] if record["status"] == "diverged" else [])]
    if not good or set(listed) not in allowed or not all(map(_is_sum, listed.values())):
        raise Fault("contradicts the configuration beside it")


def check_pointer(pointer: dict[str, Any], spec: dict[str, Any]) -> None:
    """Hold `checkpoint.json` against the configuration of its training."""
    step, named = pointer.get("step"), _STATE.fullmatch(str(pointer.get("file")))
    good = type(step) is int and 0 <= step <= spec["steps"] and named is not None and int(named["step"]) == step
    good = good and _are_steps(pointer.get("resumed", []), spec["steps"])
    if not good or not _is_sum(pointer.get("sha256")) or not is_number(pointer.get("seconds")):
        raise Fault("is no pointer to a state of this training")
    _check_lines(pointer.get("log"), spec)


def check_answer(answer: dict[str, Any], n: int) -> None:
    """Hold the answer of a metric against the number of samples that it is about."""
    if answer.get("n") != n or not is_number(answer.get("value")):
        raise Fault("holds no value of these samples")
    if not isinstance(answer.get("details", {}), dict):
        raise Fault("holds no details")
    ends = answer.get("interval")
    if ends is not None and not (are_numbers(ends) and len(ends) == 2):
        raise Fault("holds no interval")


def check_anatomy(found: dict[str, Any]) -> None:
    """Hold an error budget against what every one has."""
    if any(type(found.get(k)) is not int or found[k] < 1 for k in ("repeats", "seeds")):
        raise Fault("says no number of repeats and seeds")
    for part in ("values", "score_error"):
        tables = found.get(part)
        groups = tables.values() if isinstance(tables, dict) else [None]
        if not all(isinstance(g, dict) and all(map(are_numbers, g.values())) for g in groups):
            raise Fault(f"holds no {part}")


def is_number(value: Any) -> bool:
    """Whether a value is a number as the store writes them: not finite ones are words."""
    return (isinstance(value, int | float) and not isinstance(value, bool)) or value in ("nan", "inf", "-inf")


def are_numbers(values: Any) -> bool:
    """Whether a value is a list of numbers."""
    return isinstance(values, list) and all(map(is_number, values))


def _is_sum(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")


def _are_steps(steps: Any, last: int) -> bool:
    return isinstance(steps, list) and all(type(step) is int and 0 <= step <= last for step in steps)


def _check_lines(lines: Any, spec: dict[str, Any]) -> None:
    good = isinstance(lines, list) and all(
        isinstance(line, dict) and type(line.get("step")) is int and is_number(line.get("loss")) for line in lines
    )
    steps = [line["step"] for line in lines] if good else []
    if not good or any(a >= b for a, b in zip([0, *steps], [*steps, spec["steps"] + 1], strict=True)):
        raise Fault("is no log of step and loss")


def check_log(data: bytes, spec: dict[str, Any]) -> None:
    """Hold the lines of a training's log against its number of steps."""
    _check_lines([json.loads(line) for line in data.splitlines()], spec)


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
