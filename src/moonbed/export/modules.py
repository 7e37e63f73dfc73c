"""What the global names of a module stand for, read from its source: a statement of it, another module's, or an import.

Both branches of `if TYPE_CHECKING` are read and the first wins, so that a module that is imported lazily is the one
that the type checker sees.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

from moonbed.component import SpecError

__all__ = ["Import", "Module", "Ours", "Place", "Thing", "module", "place_of"]


@dataclass(frozen=True)
class Import:
    """`import module`, or `from module import name`, of what is installed where the file will run."""

    module: str
    name: str = ""

    def bound(self, name: str) -> str:
        """What stands behind `import` to bind a name."""
        default = self.name or self.module.split(".")[0]
        return (self.name or self.module) + (f" as {name}" if name != default else "")

    def line(self, name: str) -> str:
        """The statement that binds a name."""
        return f"from {self.module} import {self.bound(name)}" if self.name else f"import {self.bound(name)}"


@dataclass(frozen=True)
class Place:
    """A global of a module that is taken apart."""

    module: str
    name: str


@dataclass(frozen=True)
class Ours:
    """A module that is taken apart, as an object: `samplers` in `samplers.DDIM`."""

    module: str


Thing = Import | Place | Ours


class Module:
    """The source of a module and what binds its globals."""

    def __init__(self, name: str) -> None:
        self.name, self.loaded = name, importlib.import_module(name)
        try:
            text = inspect.getsource(self.loaded)
        except (OSError, TypeError):
            raise SpecError([("", f"the module {name} has no source to export")]) from None
        self.data, self.tree = text.encode(), ast.parse(text)
        self._starts = [0, *accumulate(len(line) for line in self.data.split(b"\n")[:-1])]
        self._starts = [start + k for k, start in enumerate(self._starts)]
        self._bound: dict[str, ast.stmt] = {}
        self._twice: set[str] = set()
        self._documented: dict[ast.stmt, ast.stmt] = {}
        self._read(self.tree.body, first=False)

    def _read(self, body: list[ast.stmt], first: bool) -> None:
        for statement, follower in zip_longest(body, body[1:]):
            if isinstance(statement, ast.If | ast.Try):
                handlers = [h.body for h in statement.handlers] if isinstance(statement, ast.Try) else []
                for branch in (statement.body, *handlers, statement.orelse):
                    self._read(branch, first=True)
            for name in _names(statement):
                if name in self._bound and first:
                    continue
                if name in self._bound and not isinstance(self._bound[name], ast.Import | ast.ImportFrom):
                    self._twice.add(name)
                self._bound[name] = statement
            if isinstance(follower, ast.Expr) and isinstance(follower.value, ast.Constant):
                self._documented[statement] = follower

    def offset(self, row: int, column: int) -> int:
        """The place in `data` of a row (from 1) and a byte in it."""
        return self._starts[row - 1] + column

    def extent(self, statement: ast.stmt) -> tuple[int, int]:
        """(begin, end) in `data` of a statement, with decorators and the text that documents a constant."""
        rows = [statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", ()))]
        last = self._documented.get(statement, statement) if _is_assignment(statement) else statement
        end = last.end_lineno or last.lineno
        stop = self._starts[end] - 1 if end < len(self._starts) else len(self.data)
        return self.offset(min(rows), 0), stop

    def statement(self, name: str) -> ast.stmt:
        """The one statement that binds a global."""
        if name not in self._bound or name in self._twice:
            how = "more than once" if name in self._twice else "by no plain statement"
            raise SpecError([("", f"{self.name} binds {name} {how}, which cannot be exported")])
        return self._bound[name]

    def is_constant(self, name: str) -> bool:
        """Whether a global is bound by an assignment."""
        return _is_assignment(self._bound.get(name))

    def alias(self, name: str) -> str | None:
        """The type behind `name = Annotated[type, ...]`, None for all else."""
        value = getattr(self._bound.get(name), "value", None)
        if isinstance(value, ast.Subscript) and isinstance(value.slice, ast.Tuple):
            is_annotated = getattr(value.value, "id", getattr(value.value, "attr", "")) == "Annotated"
            return ast.unparse(value.slice.elts[0]) if is_annotated else None
        return None

    def find(self, name: str) -> Thing | None:
        """What a global stands for, None for a builtin and for what nothing is known of."""
        if name in self._bound:
            statement = self._bound[name]
            if isinstance(statement, ast.Import | ast.ImportFrom):
                return self.imported(statement, name)
            return Place(self.name, name)
        if not hasattr(self.loaded, name) or (name.startswith("__") and name.endswith("__")):
            if hasattr(builtins, name) or name.startswith("__"):
                return None
            raise SpecError([("", f"{self.name} uses {name}, which it does not define")])
        return self._object(name)

    def member(self, name: str) -> Thing | None:
        """What `name` of the module is, asked from outside: a module of the package as well."""
        inner = f"{self.name}.{name}"
        if name not in self._bound and importlib.util.find_spec(inner) if self.is_package else False:
            return Ours(inner)
        return self.find(name)

    @property
    def is_package(self) -> bool:
        return hasattr(self.loaded, "__path__")

    def _object(self, name: str) -> Thing:
        """A global that the source does not show, by the object that it is now."""
        value = getattr(self.loaded, name)
        if isinstance(value, ModuleType):
            return Ours(value.__name__) if _is_ours(value.__name__) else Import(value.__name__)
        if isinstance(value, type) or inspect.isfunction(value):
            return place_of(value)
        raise SpecError([("", f"{self.name} binds {name} by no plain statement, which cannot be exported")])

    def imported(self, statement: ast.Import | ast.ImportFrom, bound: str) -> Thing | None:
        """What an import statement binds a name to."""
        alias = next(a for a in statement.names if (a.asname or a.name.split(".")[0]) == bound)
        if isinstance(statement, ast.Import):
            name = alias.name if alias.asname else alias.name.split(".")[0]
            return Ours(name) if _is_ours(name) else Import(alias.name)
        source = self.source(statement)
        return module(source).member(alias.name) if _is_ours(source) else Import(source, alias.name)

    def source(self, statement: ast.ImportFrom) -> str:
        """The absolute name of the module that a `from` statement names."""
        if not statement.level:
            return statement.module or ""
        package = self.name if self.is_package else self.name.rpartition(".")[0]
        return importlib.util.resolve_name("." * statement.level + (statement.module or ""), package)

    def takes_apart(self, statement: ast.Import | ast.ImportFrom) -> bool:
        """Whether an import is of modules that are taken apart."""
        if isinstance(statement, ast.ImportFrom):
            return _is_ours(self.source(statement))
        return any(_is_ours(alias.name) for alias in statement.names)


@cache
def module(name: str) -> Module:
    """The module of that name, read once."""
    return Module(name)


def place_of(value: Any) -> Place:
    """Where a class or function is defined. Raises `SpecError` for one inside of a function or another class."""
    if value.__qualname__ != value.__name__:
        raise SpecError(
            [("", f"{value.__qualname__} of {value.__module__} is no global of its module: it cannot leave")]
        )
    return Place(value.__module__, value.__name__)


@cache
def _is_ours(name: str) -> bool:
    """Whether a module is taken apart: one of Moonbed, or one that neither Python nor an installed package brought."""
    top = name.split(".")[0]
    if top == "moonbed" or top in sys.stdlib_module_names:
        return top == "moonbed"
    loaded = sys.modules.get(top)
    found = loaded.__spec__ if loaded is not None else importlib.util.find_spec(top)
    origin = getattr(loaded, "__file__", None) or getattr(found, "origin", None)
    return origin is not None and not {"site-packages", "dist-packages"} & set(Path(origin).parts)


def _is_assignment(statement: ast.stmt | None) -> bool:
    return isinstance(statement, ast.Assign | ast.AnnAssign)


def _names(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement of a module binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.split(".")[0] for alias in statement.names)
    elif isinstance(statement, ast.Assign):
        yield from (n.id for target in statement.targets for n in ast.walk(target) if isinstance(n, ast.Name))
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
        yield statement.target.id
