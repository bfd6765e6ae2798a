"""Small faults for a source file: each mutant is the file with one operator, number, word or statement changed."""

from __future__ import annotations

import ast
import copy
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
    """One changed file: the line, what was changed, and the whole new source."""

    line: int
    change: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Yield every mutant of a source file. Docstrings, annotations, imports and texts are left alone."""
    tree = ast.parse(source)
    for place in _places(tree):
        for change in range(_changes(place)):
            mutated = copy.deepcopy(tree)
            # The copy has its nodes in the same order, so the place is found again by its number.
            twin = next(t for n, t in zip(ast.walk(tree), ast.walk(mutated), strict=True) if n is place)
            before = _text(twin)
            replacement = _mutate(twin, change)
            if replacement is not twin:
                _Replace(twin, replacement).visit(mutated)
            ast.fix_missing_locations(mutated)
            after = "(nothing)" if isinstance(replacement, ast.Pass) else _text(replacement)
            yield Mutant(place.lineno, f"{before} -> {after}", ast.unparse(mutated) + "\n")  # type: ignore[attr-defined]


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
