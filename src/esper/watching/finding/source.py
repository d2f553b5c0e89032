"""Determines from a frame's source the order in which its variables were assigned.

A tensor without gradient does not record when it was computed. The line of a variable's last
assignment shows the order.
"""

import ast
import functools
import inspect
import itertools
import sys
import textwrap
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Final, TypeGuard

from esper.leyline.errors import EsperError
from esper.leyline.text.source_lines import source_lines

Loop = ast.For | ast.AsyncFor | ast.While
_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)
#: The time at which a variable last got its value. Later times compare greater.
_When = tuple[int, int, int, int]
#: Line and column, in bytes, of source code.
Position = tuple[int, int]
_BEFORE: _When = (-1, 0, 0, 0)  # an argument, or a variable of another scope


class NoSourceError(EsperError):
    """A frame has no source that can be read; the message says why."""


def tree_of(frame: FrameType) -> ast.Module:
    """Return the parsed source of a frame's function, or of its script, with its own positions.

    Raises:
        NoSourceError: there is no source, or it cannot be parsed.
    """
    try:
        if frame.f_code.co_name == "<module>":
            lines, first = inspect.findsource(frame.f_code)[0], 1
        else:
            lines, first = inspect.getsourcelines(frame.f_code)
    except (OSError, TypeError):
        raise NoSourceError(f"{frame.f_code.co_filename} has no source") from None
    text = "".join(lines)
    dedented = textwrap.dedent(text)
    try:
        tree = ast.parse(dedented)
    except SyntaxError as error:
        raise NoSourceError(f"its source cannot be parsed: {error.msg}") from None
    ast.increment_lineno(tree, first - 1)
    indent = len(text.partition("\n")[0]) - len(dedented.partition("\n")[0])
    for node in ast.walk(tree) if indent else ():
        if isinstance(node, (ast.stmt, ast.expr)):
            node.col_offset += indent
            node.end_col_offset = (node.end_col_offset or 0) + indent
    return tree


def position_of(frame: FrameType) -> Position:
    """Return the line and the column of a frame's current call.

    If columns are unknown, everything on the line counts as reached.
    """
    positions = itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None)
    line, _, column, _ = next(positions, (None, None, None, None))
    if line is None or column is None:
        return frame.f_lineno, sys.maxsize
    return line, column


def is_reached(statement: ast.stmt, position: Position) -> bool:
    """Return whether a statement of a loop's body began before or at a position in it."""
    return (statement.lineno, statement.col_offset) <= position


def loops_around(tree: ast.AST, line: int) -> list[Loop]:
    """Return the loops whose bodies contain a line, outermost first."""
    around: list[Loop] = [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.For, ast.AsyncFor, ast.While))
        and node.body[0].lineno <= line <= (node.end_lineno or node.lineno)
    ]
    return sorted(around, key=lambda node: node.lineno)


def training_loops(tree: ast.AST, line: int) -> list[Loop]:
    """Return the loops around a line in which gradients are computed, outermost first.

    A loop that only steps several optimizers is left out: a step is called at this line, and
    backward() was called before the loop. If no call of that is in the function, all are returned.
    """
    loops = loops_around(tree, line)
    scopes = [node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)]
    around = [one for one in scopes if one.lineno <= line <= (one.end_lineno or one.lineno)]
    scope = max(around, key=lambda one: one.lineno, default=tree)
    lines = [node.lineno for node in _own_nodes(scope) if is_backward(node) and node.lineno <= line]
    is_step = any(_calls_step(node, line) for node in _own_nodes(scope))
    while is_step and lines and loops and max(lines) < loops[-1].lineno:
        loops.pop()
    return loops


def _calls_step(node: ast.AST, line: int) -> bool:
    """Return whether a node is a call of a method `step` at a line."""
    if not isinstance(node, ast.Call) or getattr(node.func, "attr", "") != "step":
        return False
    return node.lineno <= line <= (node.end_lineno or node.lineno)


def is_backward(node: ast.AST) -> TypeGuard[ast.Attribute]:
    """Return whether a node names a backward pass, such as `loss.backward`."""
    return isinstance(node, ast.Attribute) and node.attr.endswith("backward")


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes of a function or a module except those of functions inside it."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, (*_FUNCTIONS, ast.Lambda)):
            yield child
            yield from _own_nodes(child)


def in_order_of_assignment(frame: FrameType) -> list[str]:
    """Return the names of a frame's variables in order of assignment.

    A write into an item of a variable, such as `rewards[step] = reward`, counts as an assignment.
    Without source, the order is that of the code object.
    """
    local = frame.f_locals
    names = [name for name in frame.f_code.co_varnames if name in local]
    names += [name for name in local if name not in names]
    try:
        tree = tree_of(frame)
    except NoSourceError:
        return names
    line = frame.f_lineno
    loops = loops_around(tree, line)
    last: dict[str, _When] = {}
    for statement, column, name in _stores(tree):
        last[name] = max(last.get(name, _BEFORE), _when(statement, column, line, loops))
    return sorted(names, key=lambda name: last.get(name, _BEFORE))


def _when(statement: ast.stmt, column: int, line: int, loops: list[Loop]) -> _When:
    """Return when a statement last ran, relative to the line that is currently running.

    A statement further down in a loop's body last ran in the previous pass: after everything before
    the loop, and before everything in the current pass.
    """
    depth = sum(
        loop is statement or loop.lineno < statement.lineno <= (loop.end_lineno or loop.lineno)
        for loop in loops
    )
    header = isinstance(statement, (ast.For, ast.AsyncFor, ast.With, ast.AsyncWith))
    end = statement.lineno if header else statement.end_lineno or statement.lineno
    return depth, int(end < line), statement.lineno, column


def _stores(tree: ast.Module) -> Iterator[tuple[ast.stmt, int, str]]:
    """Yield each assignment: its statement, the position of its target, and the variable."""
    for statement in ast.walk(tree):
        if isinstance(statement, (ast.Assign, ast.Delete)):
            targets = statement.targets
        elif isinstance(statement, (ast.AugAssign, ast.AnnAssign, ast.For, ast.AsyncFor)):
            targets = [statement.target]
        elif isinstance(statement, (ast.With, ast.AsyncWith)):
            targets = [item.optional_vars for item in statement.items if item.optional_vars]
        else:
            continue
        for target in targets:
            yield from ((statement, *one) for one in _stored_in(target))


def _stored_in(target: ast.expr) -> Iterator[tuple[int, str]]:
    if isinstance(target, (ast.Tuple, ast.List)):
        for part in target.elts:
            yield from _stored_in(part)
    elif isinstance(target, (ast.Subscript, ast.Starred)):
        yield from _stored_in(target.value)
    elif isinstance(target, ast.Name):
        yield target.col_offset, target.id


def add_sources(frame: FrameType, sources: dict[str, set[str]]) -> None:
    """Add, for each variable of a frame, the variables that the code assigns it from."""
    try:
        tree = tree_of(frame)
    except NoSourceError:
        return
    for statement, _, name in _stores(tree):
        value = getattr(statement, "value", None) or getattr(statement, "iter", None)
        if value is not None:
            used = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
            sources.setdefault(name, set()).update(used & frame.f_locals.keys())


def variable_assigned_at(lines: Iterable[tuple[str, int]]) -> str:
    """Return the variable that the result of a line is assigned to; empty if there is none.

    Args:
        lines: file and number of the line, and of the lines that called its function, innermost
            first. If a line returns its result, the assignment is in the caller, unless the caller
            uses the result in a larger expression.
    """
    for number, (file, line) in enumerate(lines):
        statement = _statement_at(file, line)
        if number and not _is_one_call(getattr(statement, "value", None)):
            return ""
        if not isinstance(statement, ast.Return):
            return _target_of(statement)
    return ""


def _is_one_call(value: ast.expr | None) -> bool:
    """Return whether an expression is a single call."""
    if not isinstance(value, ast.Call):
        return False
    return sum(isinstance(node, ast.Call) for node in ast.walk(value)) == 1


def _statement_at(file: str, line: int) -> ast.stmt | None:
    """Return the innermost statement at a line; None if there is none, or several."""
    covering = [
        statement
        for statement in _statements(file, tuple(source_lines(file)))
        if statement.lineno <= line <= (statement.end_lineno or statement.lineno)
    ]
    last = max((one.lineno for one in covering), default=0)
    innermost = [one for one in covering if one.lineno == last]
    simple = [one for one in innermost if not hasattr(one, "body")] or innermost
    return simple[0] if len(simple) == 1 else None


def _target_of(statement: ast.stmt | None) -> str:
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, (ast.AnnAssign, ast.AugAssign)):
        targets = [statement.target]
    names = [one.id for one in targets if isinstance(one, ast.Name) and not is_throwaway(one.id)]
    return names[0] if len(targets) == len(names) == 1 else ""


def is_throwaway(name: str) -> bool:
    """Return whether a name marks an unused variable, such as `_`."""
    return not name.strip("_")


@functools.lru_cache(maxsize=8)
def _statements(_file: str, lines: tuple[str, ...]) -> tuple[ast.stmt, ...]:
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:
        return ()
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.stmt))
