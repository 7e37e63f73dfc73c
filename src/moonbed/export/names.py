"""Which global names a piece of Python uses, where they stand in it, and which are needed when it is defined.

Scopes are those of the language: a name is global where no function around it binds it. Comprehension variables count
as bound in the whole function, and a class body sees its own names, which its methods do not.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

__all__ = ["Use", "Uses", "uses"]

Span = tuple[int, int, int, int]
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class Use:
    """A global name in the source. `attributes` are those asked of it in a row: `b` and `c` of `a.b.c`."""

    name: str
    span: Span
    attributes: tuple[tuple[str, Span], ...]
    eager: bool
    """Whether it is looked up when the piece is defined, as a base class is, and not only when a function runs."""
    annotation: bool


@dataclass
class Uses:
    """What `uses` finds. `local` are the names that imports inside of functions bind, each to its statement."""

    found: list[Use] = field(default_factory=list)
    local: dict[str, ast.Import | ast.ImportFrom] = field(default_factory=dict)
    alone: set[ast.stmt] = field(default_factory=set)
    """Import statements that are all there is in their block."""
    metadata: list[tuple[Span, Span]] = field(default_factory=list)
    """Spans of `Annotated[type, ...]` in annotations, with those of the type."""


def uses(tree: ast.stmt, ours: Callable[[ast.Import | ast.ImportFrom], bool]) -> Uses:
    """The global names of a statement; imports inside of functions that are `ours` count as global names too."""
    reader = _Reader(ours)
    reader.visit(tree)
    return reader.out


def span(node: ast.expr | ast.stmt) -> Span:
    """(first line, byte, last line, byte) of a node."""
    return node.lineno, node.col_offset, node.end_lineno or node.lineno, node.end_col_offset or 0


class _Reader(ast.NodeVisitor):
    def __init__(self, ours: Callable[[ast.Import | ast.ImportFrom], bool]) -> None:
        self.out, self.ours = Uses(), ours
        self.scopes: list[tuple[set[str], bool]] = []
        self.deferred, self.annotated = 0, 0

    def bound(self, name: str) -> bool:
        inner = len(self.scopes) - 1
        return any(name in names and (k == inner or not body) for k, (names, body) in enumerate(self.scopes))

    def visit_Name(self, node: ast.Name) -> None:
        self.use(node, ())

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain: list[tuple[str, Span]] = []
        base: ast.expr = node
        while isinstance(base, ast.Attribute):
            chain.append((base.attr, span(base)))
            base = base.value
        if isinstance(base, ast.Name):
            self.use(base, tuple(reversed(chain)))
        else:
            self.visit(base)

    def use(self, node: ast.Name, attributes: tuple[tuple[str, Span], ...]) -> None:
        if isinstance(node.ctx, ast.Load) and not self.bound(node.id):
            self.out.found.append(Use(node.id, span(node), attributes, not self.deferred, bool(self.annotated)))

    def visit_Subscript(self, node: ast.Subscript) -> None:
        name = getattr(node.value, "attr", getattr(node.value, "id", ""))
        if self.annotated and name == "Annotated" and isinstance(node.slice, ast.Tuple):
            self.out.metadata.append((span(node), span(node.slice.elts[0])))
            self.visit(node.slice.elts[0])
        else:
            self.generic_visit(node)

    def annotation(self, node: ast.expr | None) -> None:
        if node is not None:
            self.annotated += 1
            self.visit(node)
            self.annotated -= 1

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.annotation(node.annotation)
        self.visit(node.target)
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for part in node.decorator_list:
            self.visit(part)
        arguments = node.args
        for argument in _arguments(arguments):
            self.annotation(argument.annotation)
        self.annotation(node.returns)
        self.function(node, arguments, node.body)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.function(node, node.args, [node.body])

    def function(self, node: ast.AST, arguments: ast.arguments, body: list[ast.stmt] | list[ast.expr]) -> None:
        for default in [*arguments.defaults, *filter(None, arguments.kw_defaults)]:
            self.visit(default)
        self.block(body)
        names = {a.arg for a in _arguments(arguments)} | set(_bound(body, self.ours))
        self.scopes.append((names, False))
        self.deferred += 1
        for part in body:
            self.visit(part)
        self.deferred -= 1
        self.scopes.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in [*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)]:
            self.visit(part)
        self.block(node.body)
        self.scopes.append((set(), True))
        for statement in node.body:
            self.visit(statement)
            self.scopes[-1][0].update(_bound([statement], self.ours))
        self.scopes.pop()

    def comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        self.scopes.append((set(_bound([g.target for g in node.generators], self.ours)), False))
        self.generic_visit(node)
        self.scopes.pop()

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = comprehension

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        if self.scopes and self.ours(node):
            self.out.local |= {_import_name(alias): node for alias in node.names}

    visit_ImportFrom = visit_Import

    def block(self, body: list[ast.stmt] | list[ast.expr]) -> None:
        for node in [part for statement in body for part in ast.walk(statement)]:
            for name in ("body", "orelse", "finalbody"):
                self.single(getattr(node, name, None))
        self.single(body)

    def single(self, body: object) -> None:
        if isinstance(body, list) and len(body) == 1 and isinstance(body[0], ast.stmt):
            self.out.alone.add(body[0])


def _arguments(node: ast.arguments) -> list[ast.arg]:
    more = [a for a in (node.vararg, node.kwarg) if a is not None]
    return [*node.posonlyargs, *node.args, *node.kwonlyargs, *more]


def _import_name(alias: ast.alias) -> str:
    return alias.asname or alias.name.split(".")[0]


def _bound(body: list[ast.stmt] | list[ast.expr], ours: Callable[[ast.Import | ast.ImportFrom], bool]) -> Iterator[str]:
    """Names that a block binds in its own scope, less those that it declares global."""
    names, declared, stack = set[str](), set[str](), list[ast.AST](body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue  # what it binds inside is its own
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {_import_name(alias) for alias in node.names} if not ours(node) else set()
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            names.add(node.name)
        elif isinstance(node, ast.Global):
            declared |= set(node.names)
        stack += ast.iter_child_nodes(node)
    yield from names - declared
