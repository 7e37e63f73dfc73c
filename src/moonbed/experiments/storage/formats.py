"""What the JSON files of a store hold, by their names: held against it whenever one is read, here or from a stranger.

A seal says that a file is as it was written, and not who wrote it: anyone can make one. So what a store from elsewhere
holds is looked at before it is used. Names of files are names and no paths, checksums are checksums, numbers numbers.
What is not named here may stand in a file as well, and means nothing.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypeAlias

from annotated_types import Ge, Le, Len
from typing_extensions import TypedDict

if TYPE_CHECKING:
    FileName: TypeAlias = str
    Sha256: TypeAlias = str
else:
    from pydantic import StringConstraints

    FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,200}$")]
    Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

__all__ = ["check", "log_lines"]

Count = Annotated[int, Ge(0), Le(2**63 - 1)]
Number = float | Literal["inf", "-inf", "nan"]
"""JSON has no infinity: see `seals._finite`."""
Numbers = dict[str, list[Number]]


class Line(TypedDict):
    """A line of a training's log."""

    step: Count
    loss: Number


class Record(TypedDict):
    """`record.json` of a training or an experiment."""

    status: Literal["done", "diverged"]
    files: dict[FileName, Sha256]
    id: NotRequired[str]
    message: NotRequired[str]
    training: NotRequired[str]
    device: NotRequired[str]
    step: NotRequired[Count]
    parameters: NotRequired[Count]
    n: NotRequired[Count]
    exploded: NotRequired[Count]
    seconds: NotRequired[float]
    versions: NotRequired[dict[str, str]]
    resumed: NotRequired[list[Count]]


class Checkpoint(TypedDict):
    """`checkpoint.json`."""

    file: FileName
    sha256: Sha256
    step: Count
    log: list[Line]
    seconds: float
    resumed: NotRequired[list[Count]]


class Spec(TypedDict):
    """`training.json` and `experiment.json`; what stands in `spec` is the parser's to judge."""

    id: str
    spec: dict[str, Any]


class Details(TypedDict):
    """What a metric says beside its value."""

    text: NotRequired[str]
    sentence: NotRequired[str]
    n_max: NotRequired[Count]
    score_error: NotRequired[Numbers]


class Answer(TypedDict):
    """`metrics/<id>.json`."""

    metric: dict[str, Any]
    value: Number
    details: NotRequired[Details]
    interval: NotRequired[Annotated[list[Number], Len(2, 2)] | None]


class Causes(TypedDict):
    """A metric's values by the causes of an error, a number a repeat."""

    floor: Annotated[list[Number], Len(1)]
    sampler: Annotated[list[Number], Len(1)]
    capacity: Annotated[list[Number], Len(1)]
    estimation: Annotated[list[Number], Len(1)]


class Anatomy(TypedDict):
    """`anatomy.json`."""

    repeats: Annotated[Count, Ge(1)]
    seeds: Annotated[Count, Ge(1)]
    values: dict[str, Causes]
    score_error: dict[str, Numbers]


class Floor(TypedDict):
    """`floors/<id>.json`."""

    draws: list[Number]


class Exact(TypedDict):
    """`exact/<id>.json`: values of metrics, or a loss."""

    values: NotRequired[dict[str, Number]]
    value: NotRequired[Number]
    error: NotRequired[Number]
    rows: NotRequired[Count]


_FILES: dict[str, Any] = {
    "record.json": Record,
    "checkpoint.json": Checkpoint,
    "training.json": Spec,
    "experiment.json": Spec,
    "anatomy.json": Anatomy,
}
_FOLDERS: dict[str, Any] = {"metrics": Answer, "floors": Floor, "exact": Exact}


def check(folder: str, name: str, data: dict[str, Any]) -> None:
    """Raises ValueError, which says what is wrong, for content that a file of that folder and name cannot have."""
    path = PurePath(folder, name)
    kind = _FILES.get(path.name) or _FOLDERS.get(path.parent.name)
    if kind is not None:
        _held(kind, data)


def log_lines(text: bytes) -> list[tuple[int, float]]:
    """(step, mean loss) of the lines of a `log.jsonl`. Raises ValueError for another text."""
    try:
        data = json.loads(b"[" + b",".join(text.splitlines()) + b"]")
    except RecursionError:
        raise ValueError("is damaged: it is no log") from None
    return points(_held(list[Line], data))


def points(lines: list[Line]) -> list[tuple[int, float]]:
    """(step, mean loss) of lines that were looked at."""
    return [(line["step"], float(line["loss"])) for line in lines]


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _held(kind: Any, data: Any) -> Any:
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_python(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part)[:80] for part in first["loc"])
        raise ValueError(f"is damaged: {place}: {first['msg'].lower()}") from None
