"""Some classes and everything that they name, as one Python file.

The file is made of the real source, statement by statement: a class or function is taken as it stands in its module,
its global names are looked up there, what they stand for follows, and so on. Standard library and installed packages
are imported; modules of Moonbed, and those of a user that no package brought, are taken apart. So the file runs the
same code where neither is installed, and it does not matter in which module a class lives.

Names that mean two things in two modules are told apart by a number; imports of what is in the file itself go.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from moonbed.component import SpecError
from moonbed.export.modules import Import, Ours, Place, Thing, module, place_of
from moonbed.export.names import Span, Use, Uses, span, uses

__all__ = ["Assembly", "assemble"]


@dataclass(frozen=True)
class Assembly:
    """A file, and what classes are called in it. `packages` are the installed ones that it imports."""

    text: str
    packages: frozenset[str]
    _names: Mapping[Thing, str] = field(repr=False)

    def name(self, cls: type) -> str:
        """What a class is called in the file."""
        return self._names[place_of(cls)]


def assemble(roots: Iterable[type], opening: str, instead: Mapping[type, type]) -> Assembly:
    """The source file of `roots`, in which some classes stand for others.

    Raises `SpecError` for what has no source of its own in a file, as a class inside of a function, and for a global
    that no statement of its module binds once and for all.
    """
    file = _File({place_of(a): place_of(b) for a, b in instead.items()})
    for root in roots:
        file.take(place_of(root))
    packages = {thing.module.split(".")[0] for thing in file.names if isinstance(thing, Import)}
    return Assembly(file.text(opening), frozenset(packages - sys.stdlib_module_names), file.names)


class _File:
    def __init__(self, instead: Mapping[Place, Place]) -> None:
        self._instead = instead
        self._pieces: list[_Piece] = []
        self._seen: set[Place] = set()
        self.names: dict[Thing, str] = {}

    def take(self, place: Place) -> None:
        """Put a global and all that it names into the file."""
        later = [place]
        while later:
            later = [more for one in later for more in self._define(one)]

    def _define(self, place: Place) -> list[Place]:
        """Put a global into the file behind what it needs to be defined; what it needs to run is returned."""
        place = self._instead.get(place, place)
        if place in self._seen:
            return []
        self._seen.add(place)
        self._call(place, place.name)
        piece = _Piece(place)
        later: list[Place] = []
        own: list[Place] = []
        for use, thing in piece.things():
            if isinstance(thing, Import):
                self._call(thing, use.name)
            elif use.annotation and not module(thing.module).is_constant(thing.name):
                continue  # only the name of a class is ever read
            elif use.eager:
                later += self._define(thing)
            else:
                own.append(thing)
        if not piece.wide:  # a constant may call what it names
            for thing in later:
                self.take(thing)
            later = []
        self._pieces.append(piece)
        return later + own

    def _call(self, thing: Thing, wanted: str) -> None:
        """Give a name to what has none."""
        if thing in self.names:
            return
        if isinstance(thing, Import) and not thing.name and wanted == thing.module.split(".")[0]:
            roots = {t.module.split(".")[0] for t in self.names if isinstance(t, Import) and not t.name}
            taken = set(self.names.values()) - roots  # `import torch` and `import torch.nn` bind one name
        else:
            taken = set(self.names.values())
        name, number = wanted, 2
        while name in taken:
            name, number = f"{wanted}_{number}", number + 1
        self.names[thing] = name

    def called(self, thing: Thing) -> str | None:
        """What a thing is called in the file, None for what is not in it."""
        return self.names.get(self._instead.get(thing, thing) if isinstance(thing, Place) else thing)

    def text(self, opening: str) -> str:
        things = [(thing, name) for thing, name in self.names.items() if isinstance(thing, Import)]
        imports = sorted({thing.line(name) for thing, name in things if not thing.name})
        for source in sorted({thing.module for thing, _ in things if thing.name}):
            named = sorted(thing.bound(name) for thing, name in things if thing.module == source and thing.name)
            imports.append(f"from {source} import {', '.join(dict.fromkeys(named))}")
        out = [f'"""{opening}"""\n\nfrom __future__ import annotations\n\n' + "\n".join(imports)]
        wide = False
        for piece in self._pieces:
            out.append("\n\n" if piece.wide or wide else "\n" if len(out) > 1 else "\n\n")
            out.append(piece.text(self))
            wide = piece.wide
        return "\n".join(out).replace("\n\n\n\n", "\n\n\n") + "\n"


class _Piece:
    """The statement that binds a global."""

    def __init__(self, place: Place) -> None:
        self.place, self._module = place, module(place.module)
        self._alias = self._module.alias(place.name)
        self._statement = self._module.statement(place.name)
        self._uses = Uses() if self._alias else uses(self._statement, self._module.takes_apart)
        self.wide = isinstance(self._statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)

    def things(self) -> Iterator[tuple[Use, Import | Place]]:
        """The global names, and what they stand for; not the builtins."""
        for use in self._uses.found:
            found = self._resolve(use)
            if found is not None:
                yield use, found[0]

    def _resolve(self, use: Use) -> tuple[Import | Place, Span] | None:
        """What a name stands for, and where it stands: `samplers.DDIM` is one name where `samplers` is taken apart."""
        statement = self._uses.local.get(use.name)
        thing = self._module.imported(statement, use.name) if statement else self._module.find(use.name)
        where = use.span
        for name, wider in use.attributes:
            if not isinstance(thing, Ours):
                break
            thing, where = module(thing.module).member(name), wider
        if isinstance(thing, Ours):
            message = f"{self.place.name} uses the module {thing.module} as an object; use names of it"
            raise SpecError([("", message)])
        return (thing, where) if thing is not None else None

    def text(self, file: _File) -> str:
        """The statement with the names of the file."""
        if self._alias:
            return f"{file.called(self.place)} = {self._alias}"
        begin, end = self._module.extent(self._statement)
        out = bytearray(self._module.data[begin:end])
        for first, last, text in sorted(set(self._edits(file)), reverse=True):
            out[first - begin : last - begin] = text.encode()
        kept = re.sub(r"  # (type: ignore|noqa)\b[^\n]*", "", out.decode())
        return (textwrap.dedent(kept) if kept[:1].isspace() else kept).strip("\n")

    def _edits(self, file: _File) -> Iterator[tuple[int, int, str]]:
        offset = self._module.offset
        for use in self._uses.found:
            found = self._resolve(use)
            name = file.called(found[0]) if found else None
            if found and name is not None and (name != use.name or found[1] != use.span):
                row, column, end_row, end = found[1]
                yield offset(row, column), offset(end_row, end), name
        for whole, kept in self._uses.metadata:
            yield offset(whole[0], whole[1]), offset(kept[0], kept[1]), ""
            yield offset(kept[2], kept[3]), offset(whole[2], whole[3]), ""
        for statement in set(self._uses.local.values()):
            row, column, end_row, end = span(statement)
            if statement in self._uses.alone:
                yield offset(row, column), offset(end_row, end), "pass"
            else:
                rest = self._module.data[offset(end_row, end) :]
                blank = len(rest) - len(rest.lstrip(b"\n"))
                yield offset(row, 0), offset(end_row, end) + min(blank, 2), ""
        if (name := file.called(self.place)) not in (None, self.place.name):
            first, last = self._bound_name()
            yield first, last, str(name)

    def _bound_name(self) -> tuple[int, int]:
        begin, end = self._module.extent(self._statement)
        pattern = rb"^(?:class |def |async def |)(%s)\b" % self.place.name.encode()
        match = re.search(pattern, self._module.data[begin:end], re.MULTILINE)
        if match is None:
            raise SpecError([("", f"two things are called {self.place.name}; rename the one of {self.place.module}")])
        return begin + match.start(1), begin + match.end(1)
