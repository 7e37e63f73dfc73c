"""Components: one frozen dataclass is the configuration, the object and the identity.

A *kind* is a direct subclass of `Component` (`Target`, `Network`, `Sampler`, ...); a *member* is a concrete class below
it. Subclassing is all there is to do: the subclass becomes a frozen, keyword-only dataclass, is registered under its
class name within its kind, and is validated against its own annotations whenever it is built, in Python, from JSON
or from the command line alike.

    >>> from moonbed.component import Component
    >>> class Solver(Component): ...
    >>> class Heun(Solver):
    ...     '''Second order.'''
    ...     steps: Positive = 32
    >>> Heun(steps=64).spec()
    {'type': 'Heun', 'steps': 64}

The id of a component is a digest of the canonical JSON of its spec. All fields are hashed, not only changed ones, so a
default that changes in a later version changes the id. A class from outside the package also hashes its source.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import importlib
import inspect
import json
import linecache
import math
import pkgutil
import re
import reprlib
import sys
import threading
import typing
from abc import ABC
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, dataclass_transform

from annotated_types import Ge, Gt, Le

from moonbed._shown import Shown

__all__ = [
    "Component",
    "Fraction",
    "NonNegative",
    "NonNegativeInt",
    "Positive",
    "PositiveFloat",
    "SpecError",
    "discover",
    "kinds",
    "members",
    "nearest",
    "parse_overrides",
    "split_values",
]

Positive = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]


MOST = 64
"""How deep a configuration may be nested, and its values in one another: teachers of teachers, for instance."""
LONGEST = 10_000
"""Characters of a text, and entries of a list, that a field may have."""
_NAMED = 8
"""Unknown fields, and bad entries of one field, that an error lists."""


class SpecError(ValueError):
    """A configuration that cannot be: every problem at once, each with its place and what is allowed there.

    `problems` is a list of `(place, message)`; the place is a dotted name such as `training.network.width`.
    """

    def __init__(self, problems: Iterable[tuple[str, str]]) -> None:
        self.problems = [(place, message) for place, message in problems]
        super().__init__("; ".join(f"{p}: {m}" if p else m for p, m in self.problems))

    def __reduce__(self) -> tuple[type[SpecError], tuple[list[tuple[str, str]]]]:
        return SpecError, (self.problems,)


def nearest(name: object, known: Iterable[str]) -> str:
    """`'did you mean X? '` where a known name is close to `name`, then the list of all that is known."""
    known = sorted(known)
    folded = {k.lower(): k for k in known}
    close = difflib.get_close_matches(str(name)[:80].lower(), folded, n=1, cutoff=0.5)
    hint = f"did you mean {folded[close[0]]!r}? " if close else ""
    return f"{hint}known: {', '.join(known) or 'none'}"


def shown(value: Any) -> str:
    """`repr` of anything that was given, on one line that ends: long ones are cut, deep ones are not followed."""
    try:
        text = _REPR.repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        text = f"a value of type {type(value).__name__}"
    return text.encode("utf-8", "backslashreplace").decode()


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 120

_REGISTRY: dict[type, dict[str, type]] = {}
_RESERVED = frozenset({"type", "source", "id", "spec", "check", "kind", "parse", "replace"})


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Component(Shown, ABC):
    """Base of everything that can stand in a configuration. See the module's docstring."""

    _plugin: ClassVar[bool] = False
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__name__.isidentifier():
            raise SpecError([("", f"no class can be called {shown(cls.__name__)}")])
        taken = [name for name in inspect.get_annotations(cls) if name in _RESERVED]
        if taken:
            raise SpecError([(name, f"{cls.__name__}.{name}: every component has this name already") for name in taken])
        dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(cls)
        cls._plugin = not cls.__module__.startswith("moonbed.")
        if Component in cls.__bases__:
            _REGISTRY[cls] = {}
            return
        family = _REGISTRY[cls.kind()]
        known = family.get(cls.__name__)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise SpecError([("", f"{cls.kind().__name__} {cls.__name__!r} exists already, in {known.__module__}")])
        family[cls.__name__] = cls
        if cls._plugin:
            with contextlib.suppress(SpecError):  # it is raised when the class is asked for its spec
                _source_digest(cls)

    def __post_init__(self) -> None:
        problems: list[tuple[str, str]] = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            try:
                checked = _checked(type(self), field.name, value)
            except ValueError as error:
                problems += _problems(error, field.name)
            else:
                object.__setattr__(self, field.name, checked)
        if not problems:
            problems = [*self.check()]
        if problems:
            raise SpecError(problems)

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield `(field, message)` for what the types alone cannot rule out. Members may override it."""
        yield from ()

    # Identity

    def spec(self) -> dict[str, Any]:
        """The configuration as plain JSON values: `{"type": "Heun", "steps": 32}`."""
        out: dict[str, Any] = {"type": type(self).__name__}
        if self._plugin:
            out["source"] = _source_digest(type(self))
        out.update({f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)})
        return out

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the canonical JSON of `spec()`."""
        return digest(self.spec())

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return _pretty(self)

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # without what is cached

    # Parsing

    @classmethod
    def kind(cls) -> type[Component]:
        """The kind this class belongs to: the direct subclass of `Component` among its bases."""
        return next(base for base in cls.__mro__ if Component in base.__bases__)

    @classmethod
    def parse(cls, data: str | Mapping[str, Any] | Component) -> Self:
        """Build a member of this kind (or of this class) from a name, a JSON text, a mapping or a ready object.

        Raises `SpecError` naming every unknown type or field and every value of the wrong type, with what is allowed.
        """
        if isinstance(data, Component):
            if isinstance(data, cls):
                return data
            raise SpecError([("", f"{type(data).__name__} is a {data.kind().__name__}, not a {cls.__name__}")])
        with _deeper():
            return cls._parsed(_parse_text(data, cls) if isinstance(data, str) else data)

    @classmethod
    def _parsed(cls, data: Any) -> Self:
        if not isinstance(data, Mapping):
            raise SpecError([("", f"{shown(data)} is no {cls.__name__}; give a name, a JSON object or an instance")])
        fields = {str(k): v for k, v in data.items()}
        member = _member(cls, fields.pop("type", None))
        source = fields.pop("source", None)
        known = {f.name for f in dataclasses.fields(member)}
        unknown = [name for name in fields if name not in known]
        problems = [(_cut(k), f"{member.__name__} has no such field; {nearest(k, known)}") for k in unknown[:_NAMED]]
        if len(unknown) > _NAMED:
            problems.append(("", f"{member.__name__} has none of {len(unknown) - _NAMED:,} more fields"))
        missing = [
            f.name
            for f in dataclasses.fields(member)
            if f.name not in fields and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        problems += [(name, f"{member.__name__} needs this field") for name in missing]
        if source is not None and source != (_source_digest(member) if member._plugin else None):
            problems.append(("source", f"{member.__name__} was written with other source code than the class has now"))
        if problems:
            # The values of the known fields are looked at too, so that all mistakes are named at once.
            for name in [name for name in fields if name in known]:
                try:
                    _checked(member, name, fields[name])
                except ValueError as error:
                    problems += _problems(error, name)
            raise SpecError(problems)
        return member(**fields)  # type: ignore[return-value]

    def replace(self, **dotted: Any) -> Self:
        """A copy with some fields changed: `spec.replace(**{"sampler.steps": 64})`.

        A text that is no component name is read as JSON where it can be, so that command-line values arrive typed.
        Raises `SpecError` naming all unknown places and bad values at once.
        """
        spec, problems = self.spec(), []
        for place in sorted(dotted, key=lambda p: p.count(".")):
            value = dotted[place]
            try:
                _assign(type(self), spec, place.split("."), value)
            except SpecError as error:
                problems += [(p or place, m) for p, m in error.problems]
        try:
            changed = type(self).parse(spec)
        except SpecError as error:
            raise SpecError(dict.fromkeys(problems + error.problems)) from None
        if problems:
            raise SpecError(problems)
        return changed


# Values as they come from Python, JSON and the command line


def parse_overrides(words: Iterable[str]) -> list[dict[str, Any]]:
    """`["a.b=1,2", "c=x"]` -> `[{"a.b": "1", "c": "x"}, {"a.b": "2", "c": "x"}]`: a sweep over the listed values.

    Commas inside brackets, braces or quotes do not separate. Raises `SpecError` for a word without `=`, an empty value
    and a name given twice.
    """
    out: list[dict[str, Any]] = [{}]
    for word in words:
        name, equals, text = word.partition("=")
        values = split_values(text)
        if not (equals and name and all(values)):
            raise SpecError([(_cut(word), "write name=value, or name=value,value to sweep")])
        if name in out[0]:
            raise SpecError([(name, "given twice; list the values behind one name, as in training.seed=0,1")])
        if len(out) * len(values) > LONGEST:
            raise SpecError([(_cut(name), f"makes this a sweep of {len(out) * len(values):,}, at most {LONGEST:,} go")])
        out = [{**given, name: value} for given in out for value in values]
    return out


def split_values(text: str) -> list[str]:
    """The parts between commas; those inside brackets, braces or quotes do not separate."""
    parts, depth = [""], 0
    for piece in re.findall(r'"(?:\\.|[^"\\])*"|.', text, re.DOTALL):  # a quoted text is one piece
        depth += piece in ("[", "{", "(")
        depth -= piece in ("]", "}", ")")
        if piece == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += piece
    return [part.strip() for part in parts]


def _parse_text(text: str, kind: type[Component]) -> Any:
    if not text.lstrip().startswith("{"):
        return {"type": text}
    try:
        return json.loads(text, object_pairs_hook=_once)
    except SpecError:
        raise
    except ValueError as error:
        raise SpecError([("", f"{shown(text)} is neither a {kind.__name__} nor JSON ({error})")]) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names are all different; Python's reader would take the last of equal ones in silence."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise SpecError([(_cut(name), "given twice")])
        found[name] = value
    return found


_depth = threading.local()


@contextlib.contextmanager
def _deeper() -> Iterator[None]:
    """One configuration inside another. Raises `SpecError` where that goes on for too long, whatever raises it."""
    level = _depth.level = getattr(_depth, "level", 0) + 1
    try:
        if level > MOST:
            raise SpecError([("", f"is nested more than {MOST} deep")])
        yield
    except RecursionError:
        raise SpecError([("", f"is nested more than {MOST} deep")]) from None
    finally:
        _depth.level = level - 1


def _cut(place: str) -> str:
    """The name of a place that somebody else chose, no longer than a line."""
    return place if len(place) <= 80 else f"{place[:80]}..."


def _assign(owner: type[Component], spec: dict[str, Any], path: list[str], value: Any) -> None:
    """Put `value` at the dotted `path` of a spec in place; the classes along the way say which names exist."""
    cls: type[Component] | None = owner
    for depth, name in enumerate(path):
        here = ".".join(path[: depth + 1])
        if cls is not None and name not in (known := [f.name for f in dataclasses.fields(cls)]):
            raise SpecError([(here, f"{cls.__name__} has no such field; {nearest(name, known)}")])
        if depth == len(path) - 1:
            spec[name] = _read(value, _hints(cls)[name] if cls else None)
            return
        kind = _kind_in(_hints(cls)[name]) if cls else None
        inner = spec.get(name)
        if kind is not None and isinstance(inner, str):
            inner = {"type": inner}
        elif isinstance(inner, Component):
            inner = inner.spec()
        if not isinstance(inner, dict):
            raise SpecError([(here, f"is {shown(inner)}, which has no field {path[depth + 1]!r}")])
        try:
            cls = _member(kind, inner.get("type")) if kind else None
        except SpecError as error:
            raise SpecError([(here, message) for _, message in error.problems]) from None
        spec[name] = inner
        spec = inner


def _kind_in(hint: Any) -> type[Component] | None:
    """The component class that a field's annotation speaks of: `Sampler`, `Averaging | None`."""
    if isinstance(hint, type) and issubclass(hint, Component):
        return hint
    return next(filter(None, map(_kind_in, typing.get_args(hint))), None)


def _read(value: Any, hint: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        read = json.loads(value, object_pairs_hook=_once)
    except SpecError:
        raise
    except RecursionError:
        raise SpecError([("", f"is nested more than {MOST} deep")]) from None
    except ValueError:
        read = {"None": None, "True": True, "False": False}.get(value, value)
    return value if hint is str and not isinstance(read, str) else read


def _plain(value: Any) -> Any:
    if isinstance(value, Component):
        return value.spec()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _flaw(value: Any, depth: int = 0) -> str:
    """Why a value cannot stand in JSON, or should not: empty where `_plain` turns it into JSON."""
    if isinstance(value, str | Path):
        return _flaw_of_text(str(value))
    if isinstance(value, Mapping | list | tuple):
        if depth >= MOST:
            return f"should be nested at most {MOST} deep"
        if len(value) > LONGEST:
            return f"should have at most {LONGEST:,} entries, has {len(value):,}"
        if isinstance(value, Mapping):
            if not all(isinstance(key, str) for key in value):
                return "should have texts for keys"
            value = [*value, *value.values()]
        return next(filter(None, (_flaw(inner, depth + 1) for inner in value)), "")
    if isinstance(value, float):
        return "" if math.isfinite(value) else "should be finite"
    if isinstance(value, int):
        return "" if -(2**63) <= value < 2**64 else "should fit into 64 bits"
    return "" if value is None or isinstance(value, Component) else "should be plain JSON values"


def _flaw_of_text(text: str) -> str:
    if len(text) > LONGEST:
        return f"should have at most {LONGEST:,} characters, has {len(text):,}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "should be text that can be written as UTF-8"
    return ""


def digest(data: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of the canonical JSON of `data` (sorted keys, no spaces, no NaN)."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache  # from the time when the class is made: the file may be edited while the code runs
def _source_digest(cls: type) -> str:
    try:
        module = sys.modules.get(cls.__module__)
        file = getattr(module, "__file__", None)
        text = Path(file).read_text(encoding="utf-8") if file else _cell(cls) or inspect.getsource(cls)
    except (OSError, TypeError):
        raise SpecError([("", f"{cls.__name__} has no source to identify it by: define it in a file")]) from None
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _cell(cls: type) -> str:
    """The text of the notebook's cell that defines a class, "" where there is none."""
    names = (getattr(getattr(value, "__code__", None), "co_filename", "") for value in vars(cls).values())
    return next((text for name in names if name in linecache.cache and (text := "".join(linecache.getlines(name)))), "")


def _pretty(value: Any, indent: int = 0) -> str:
    """Python that builds the value again; fields on their own lines where they do not fit on one."""
    if isinstance(value, Component):
        parts = [f"{f.name}={_pretty(getattr(value, f.name), indent + 4)}" for f in dataclasses.fields(value)]
        line = f"{type(value).__name__}({', '.join(parts)})"
        if "\n" not in line and len(line) + indent <= 96:
            return line
        pad = " " * (indent + 4)
        return f"{type(value).__name__}(\n" + "".join(f"{pad}{part},\n" for part in parts) + " " * indent + ")"
    if isinstance(value, tuple):
        inner = ", ".join(_pretty(v, indent) for v in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


# The schema: pydantic at the boundary, one adapter a field


@cache
def _adapter(cls: type, name: str) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    hint = _hints(cls)[name]
    plain = isinstance(hint, type) and issubclass(hint, Component)  # pydantic takes no config beside a class's own
    try:
        return TypeAdapter(hint) if plain else TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))
    except Exception as error:
        raise TypeError(f"{cls.__name__}.{name}: {hint!r} cannot be validated ({error})") from error


def _checked(cls: type, name: str, value: Any) -> Any:
    """The value of a field, validated. Raises pydantic's ValidationError, or SpecError."""
    adapter = _adapter(cls, name)
    if isinstance(value, list | tuple | str) and len(value) > LONGEST:
        raise SpecError([("", f"input {_flaw(value)}")])
    checked = adapter.validate_python(value)
    if isinstance(value, bool) and not isinstance(checked, bool):
        raise SpecError([("", f"input should be a number, given {value!r}")])
    if flaw := _flaw(checked):
        raise SpecError([("", f"input {flaw}, given {shown(value)}")])
    return checked


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _component_schema(cls: type[Component], source: Any, handler: Any) -> Any:
    from pydantic_core import core_schema

    return core_schema.no_info_plain_validator_function(cls.parse)


Component.__get_pydantic_core_schema__ = classmethod(_component_schema)  # type: ignore[attr-defined]


def _problems(error: ValueError, place: str) -> list[tuple[str, str]]:
    """Flatten pydantic's errors, and the SpecErrors of nested components within them, to (dotted place, message)."""
    if isinstance(error, SpecError):
        return [(f"{place}.{p}" if p else place, m) for p, m in error.problems]
    if isinstance(error, UnicodeError):  # of pydantic itself, which has no words for half a character
        return [(place, "input should be text that can be written as UTF-8")]
    out: list[tuple[str, str]] = []
    found = error.errors(include_url=False)  # type: ignore[attr-defined]
    for item in found[:_NAMED]:
        # pydantic names the branch of a union in `loc`; only indices and keys are places a user wrote
        inner = "".join(f".{part}" for part in item["loc"] if isinstance(part, int))
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, SpecError):
            out += _problems(cause, place + inner)
        elif item["type"] != "none_required":
            out.append((place + inner, f"{item['msg'].lower()}, given {shown(item['input'])}"))
    if len(found) > _NAMED:
        out.append((place, f"and {len(found) - _NAMED:,} more like these"))
    return list(dict.fromkeys(out))


# The registry


def kinds() -> dict[str, type[Component]]:
    """Name of a kind -> the kind, as imported so far."""
    return {kind.__name__: kind for kind in _REGISTRY}


def members(kind: type[Component]) -> dict[str, type[Component]]:
    """Name -> class of the concrete members of a kind, itself among them where it has no abstract method."""
    found = {kind.__name__: kind, **_REGISTRY[kind]}
    return {name: cls for name, cls in sorted(found.items()) if not inspect.isabstract(cls)}


def _member(cls: type[Component], name: Any) -> type[Component]:
    known = {n: m for n, m in members(cls.kind()).items() if issubclass(m, cls)}
    if name is None:
        if len(known) == 1:
            return next(iter(known.values()))
        raise SpecError([("type", f"say which {cls.__name__}; {nearest('', known)}")])
    if not isinstance(name, str) or name not in known:
        raise SpecError([("", f"no {cls.__name__} is called {shown(name)}; {nearest(name, known)}")])
    return known[name]


def discover(package: str) -> None:
    """Import every module of a package whose name has no leading underscore: a new file is a new member."""
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not info.name.startswith("_"):
            importlib.import_module(f"{package}.{info.name}")
