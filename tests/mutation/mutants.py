"""Small faults for a source file: each mutant is the file with one operator, number, word or statement changed."""

from __future__ import annotations

import ast
import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


@dataclass(frozen=True)
class Mutant:
    """One changed file: what is changed, and where."""

    line: int
    # the outermost function that the change lies in: its name, with that of its class, and its lines; None: outside
    function: tuple[str, range] | None
    change: str
    # the sound file; the number of the node that is changed in it, and of its change
    text: str
    node: int
    way: int

    def tree(self) -> ast.Module:
        """The new program. Its lines have the old numbers."""
        tree = ast.parse(self.text)
        node = next(itertools.islice(ast.walk(tree), self.node, None))
        replacement = _mutate(node, self.way)
        if replacement is not node:
            _Replace(node, ast.copy_location(replacement, node)).visit(tree)
        return ast.fix_missing_locations(tree)

    def source(self) -> str:
        """Text of the new program."""
        return ast.unparse(self.tree()) + "\n"


def mutants(source: str) -> Iterator[Mutant]:
    """Yield every mutant of a source file. Docstrings, annotations, imports and texts are left alone."""
    tree = ast.parse(source)
    numbers = {node: number for number, node in enumerate(ast.walk(tree))}
    above = {inner: node for node in numbers for inner in ast.iter_child_nodes(node)}
    for place in _places(tree):
        path = [place]
        while path[-1] in above:
            path.append(above[path[-1]])
        function = _function(path)
        for way in range(_changes(place)):
            changed = _mutate(copy.deepcopy(place), way)
            after = "(nothing)" if isinstance(changed, ast.Pass) else _text(changed)
            change = f"{_text(place)} -> {after}"
            yield Mutant(place.lineno, function, change, source, numbers[place], way)  # type: ignore[attr-defined]


def _function(path: list[ast.AST]) -> tuple[str, range] | None:
    """The outermost function in whose body a path upwards begins. Of a lambda outside of functions: None."""
    found, names = None, []
    for below, node in reversed(list(itertools.pairwise(path))):
        if isinstance(node, ast.ClassDef):
            names.append(node.name)
        if isinstance(node, ast.Lambda):
            return None
        if isinstance(node, ast.FunctionDef):
            if below in node.body:
                first = min(part.lineno for part in (node, *node.decorator_list))
                found = (".".join([*names, node.name]), range(first, node.end_lineno + 1))  # type: ignore[operator]
            break
    return found


def _places(tree: ast.Module) -> list[ast.AST]:
    """The nodes that can be changed, in the order of the file."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
            skipped.update(map(id, ast.walk(node.annotation)))
        if isinstance(node, ast.FunctionDef) and node.returns is not None:
            skipped.update(map(id, ast.walk(node.returns)))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped.update(map(id, ast.walk(node)))
        # A message is for people: tests hold what it names, not each of its words. Raising it is what is mutated.
        if isinstance(node, ast.Raise | ast.JoinedStr):
            skipped.update(id(inner) for inner in ast.walk(node) if inner is not node)
    found = [node for node in ast.walk(tree) if id(node) not in skipped and _changes(node)]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))  # type: ignore[attr-defined]


def _changes(node: ast.AST) -> int:
    """How many ways there are to change a node."""
    match node:
        case ast.BinOp(
            op=ast.BitOr() | ast.BitAnd() | ast.MatMult() | ast.LShift() | ast.RShift() | ast.BitXor()
        ):
            return 0
        case ast.BinOp() | ast.BoolOp():
            return 1
        case ast.Compare(ops=ops):
            return len(ops)
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            return 1
        case ast.Constant(value=bool() | int() | float()):
            return 1
        case ast.Raise() | ast.Continue() | ast.Break() | ast.AugAssign():
            return 1
        case ast.Expr(value=ast.Call() | ast.Yield() | ast.YieldFrom()):
            return 1
        case ast.Return(value=value) if value is not None and not isinstance(value, ast.Constant):
            return 1
        case ast.If() | ast.IfExp():
            return 1
    return 0


def _mutate(node: ast.AST, change: int) -> ast.AST:
    """The node with one change: in place where it keeps its type, else the node that takes its place."""
    match node:
        case ast.BinOp() | ast.BoolOp():
            node.op = SWAPS[type(node.op)]()  # type: ignore[assignment]
        case ast.Compare():
            node.ops[change] = SWAPS[type(node.ops[change])]()  # type: ignore[call-overload]
        case ast.UnaryOp():
            return node.operand
        case ast.Constant(value=bool()):
            return ast.Constant(not node.value)
        case ast.Constant():
            return ast.Constant(node.value + 1)  # type: ignore[operator]
        case ast.Raise() | ast.Continue() | ast.Break() | ast.AugAssign() | ast.Expr():
            return ast.Pass()
        case ast.Return():
            return ast.Return(ast.Constant(None))
        case ast.If() | ast.IfExp():
            node.test = ast.Constant(False)
    return node


def _text(node: ast.AST) -> str:
    return ast.unparse(node).splitlines()[0][:90]


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)
