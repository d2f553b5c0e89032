"""Repeats the body of the innermost loop of a training frame, up to the optimizer's step.

The weights have not changed yet when a NaN is found, so the same minibatch gives the same NaN; this
time every operation is traced. The loop's body is taken from its source with `ast`, compiled with
its own file name and line numbers, and run on copies of the frame's variables. This happens in a
forked child process (`forked`); if that is not possible, all state is restored bit for bit.

Only a body without side effects is run again: it must not step an environment, fetch a batch, or
write into a buffer.
"""

import ast
import contextlib
import inspect
import io
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import CodeType, FrameType
from typing import Any, Final

from torch import Tensor

from esper.watching.finding.effects import Scope, has_effect
from esper.watching.finding.frames import (
    frames_of_traceback,
    is_plumbing,
    named_tensors,
    tensors_in,
)
from esper.watching.finding.repeating.cannot_run_again import CannotRunAgainError, NoLoopError
from esper.watching.finding.repeating.put_back import copy_of, gradient_state
from esper.watching.finding.source import (
    Loop,
    NoSourceError,
    Position,
    is_reached,
    position_of,
    training_loops,
    tree_of,
)
from esper.watching.finding.steps_left_out import StepReached

#: Functions that fetch a batch. A second run skips their calls and uses the batch in the frame.
_FETCHING = frozenset({"next", "sample", "get", "get_nowait", "recv", "popleft"})
#: Name of the function compiled from a loop's body.
LOOP_FUNCTION: Final = "_esper_body"


@dataclass(frozen=True)
class Body:
    """The body of a loop, ready to be run on a copy of its frame's variables."""

    frame: FrameType
    code: Any
    names: tuple[str, ...]

    def run(
        self, earlier: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Tensor], Exception | None]:
        """Run the body once, up to the optimizer's step or an exception.

        Args:
            earlier: values of the loop's own variables in an earlier pass, to run that pass; it may
                end without a step.

        Returns:
            The tensors of the body and of the functions on its stack, by name, and the exception
            that ended it, or None.

        Raises:
            CannotRunAgainError: the current pass ended without a step.
        """
        variables = dict(self.frame.f_globals)
        local = self.frame.f_locals
        exec(self.code, variables)
        function = variables[LOOP_FUNCTION]
        local = local if earlier is None else {**local, **earlier}
        arguments = {name: copy_of(local[name], 0) for name in self.names if name in local}
        _uncount_batch(local.values())
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                values = function(**arguments)
        except StepReached as reached:
            return tensors_of_error(reached, function.__code__), None
        except Exception as error:  # noqa: BLE001 - PyTorch may reject a NaN here as well
            return tensors_of_error(error, function.__code__), error
        if earlier is None:
            raise CannotRunAgainError("its second run did not reach the optimizer's step")
        return dict(one for name, value in values.items() for one in tensors_in(name, value)), None


def tensors_of_error(error: BaseException, code: CodeType | None = None) -> dict[str, Tensor]:
    """Return the tensors in the frames of an exception by name, those of callers first.

    Args:
        error: the exception.
        code: code of the function whose callers are skipped; None to skip none.
    """
    found: dict[str, Tensor] = {}
    is_inside = code is None
    for frame in frames_of_traceback(error.__traceback__)[::-1]:
        is_inside |= frame.f_code is code
        if is_inside and not is_plumbing(frame.f_code.co_filename):
            for name, tensor in named_tensors(frame).items():
                found.setdefault(name, tensor)
    return found


def _uncount_batch(variables: Iterable[object]) -> None:
    """Decrement Accelerate's batch counter, because the repeated batch is counted again.

    `Accelerator.accumulate` counts batches to decide in which of them optimizers step.
    """
    for value in variables:
        if gradient_state(value) is not None and isinstance(vars(value).get("step"), int):
            vars(value)["step"] -= 1


def body_of(frame: FrameType, *, is_earlier: bool = False, is_private: bool = False) -> Body:
    """Return the body of the innermost loop around a frame's current line.

    Args:
        frame: frame of the loop.
        is_earlier: whether an earlier pass is run. Its fetched batch is not in the frame, and it
            may run to the body's end.
        is_private: whether the body runs in a process that shares no memory with the training. Then
            it may change containers, arrays and tensors.

    Raises:
        CannotRunAgainError: there is no source or no loop, or the body has side effects.
    """
    try:
        loops = training_loops(tree_of(frame), frame.f_lineno)
    except NoSourceError as error:
        raise NoLoopError(str(error)) from None
    if not loops:
        raise NoLoopError(f"no loop encloses line {frame.f_lineno}")
    loop = loops[-1]
    step = position_of(frame)
    loop.body = _without_counting(loop.body, step)
    if not is_earlier:
        loop.body = _without_fetching(loop.body, frame.f_locals)
    variables = Scope(frame.f_locals, frame.f_globals, is_private=is_private)
    _refuse_effects(loop.body, variables, None if is_earlier else step)
    names = tuple(name for name in frame.f_locals if name.isidentifier())
    if frame.f_locals is frame.f_globals:  # a script: its variables are the globals
        names = tuple(_assigned(loop.body) & set(frame.f_locals))
    loop.body = [_Synchronous().visit(statement) for statement in loop.body]
    code = compile(_function(loop, names), frame.f_code.co_filename, "exec")
    return Body(frame, code, names)


def refuse_effects(function: Any) -> None:
    """Check in its source that a function has no side effects.

    Raises:
        CannotRunAgainError: it has side effects, such as stepping an environment, or no source.
    """
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        raise CannotRunAgainError("the training step has no source") from None
    ast.increment_lineno(tree, first - 1)
    definition = tree.body[0]
    body = definition.body if isinstance(definition, ast.FunctionDef) else tree.body
    _refuse_effects(body, Scope())


def has_loop(frame: FrameType) -> bool:
    """Return whether a loop encloses a frame's current line, according to its source."""
    try:
        return bool(training_loops(tree_of(frame), frame.f_lineno))
    except NoSourceError:
        return False


def _without_counting(body: list[ast.stmt], step: Position) -> list[ast.stmt]:
    """Remove increments of counters that the first run already made, such as `self.updates += 1`.

    Otherwise a loop that learns only at every second count would not learn in a second run.
    """

    def is_counted(node: ast.stmt) -> bool:
        return (
            isinstance(node, ast.AugAssign)
            and isinstance(node.target, (ast.Name, ast.Attribute))
            and isinstance(node.value, ast.Constant)
            and is_reached(node, step)
        )

    return [node for node in body if not is_counted(node)]


def _without_fetching(body: list[ast.stmt], variables: Mapping[str, object]) -> list[ast.stmt]:
    """Remove the statements that fetch a batch which is still in the frame."""

    def is_held(node: ast.stmt) -> bool:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            return False
        name = node.targets[0].id
        return (
            len(node.targets) == 1
            and isinstance(node.value, ast.Call)
            and _called(node.value.func) in _FETCHING
            and name in variables
            and sum(name in _stored(each) for each in body) == 1
        )

    return [node for node in body if not is_held(node)]


def _stored(statement: ast.stmt) -> set[str]:
    return {
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def _refuse_effects(
    body: Sequence[ast.stmt], variables: Scope, step: Position | None = None
) -> None:
    """Raise an exception if a body has side effects before the step that ends its run.

    Args:
        body: the statements of the body.
        variables: the visible variables.
        step: position of the call of the step; None if the body runs to its end.

    Raises:
        CannotRunAgainError: it has side effects.
    """
    own = _assigned_names(body)  # a second run creates them again
    scope = replace(variables, own=frozenset(own))
    for node in (each for each in _reached(ast.Module([*body], []), variables.local, step)):
        if isinstance(node, (ast.Yield, ast.YieldFrom)):
            raise CannotRunAgainError(f"line {node.lineno} yields to the caller of the loop")
        if isinstance(node, (ast.Await, ast.AsyncFor, ast.AsyncWith)):
            raise CannotRunAgainError(f"line {node.lineno} waits for another task")
        if isinstance(node, ast.comprehension) and node.is_async:
            raise CannotRunAgainError(f"line {node.iter.lineno} waits for another task")
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            raise CannotRunAgainError(f"line {node.lineno} cannot be run again")
        if has_effect(node, scope):
            called = (
                f"calls {_called(node.func)}()"
                if isinstance(node, ast.Call)
                else "waits or takes items"
            )
            place = node.iter if isinstance(node, ast.comprehension) else node
            raise CannotRunAgainError(f"line {getattr(place, 'lineno', 0)} {called}")
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AugAssign):
            targets = [node.target]
        for target in targets:
            if isinstance(target, ast.Subscript) and not (
                _base(target) in own or _is_learning_rate(target) or scope.may_change(target)
            ):
                raise CannotRunAgainError(f"line {target.lineno} writes into a buffer")


class _Synchronous(ast.NodeTransformer):
    """Converts a body to that of an ordinary function, without `await` and `yield`.

    The second run never reaches the statements that are changed.
    """

    def visit(self, node: ast.AST) -> Any:
        """Return a node without `await` and `yield`; nested functions are not changed."""
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return node
        self.generic_visit(node)
        if isinstance(node, (ast.Await, ast.Yield, ast.YieldFrom)):
            return ast.copy_location(ast.Constant(None), node)
        if isinstance(node, (ast.AsyncFor, ast.AsyncWith)):
            kind = ast.For if isinstance(node, ast.AsyncFor) else ast.With
            return ast.copy_location(kind(**dict(ast.iter_fields(node))), node)
        if isinstance(node, ast.comprehension):
            node.is_async = 0
        return node


def _base(target: ast.expr) -> str:
    """Return the variable that a target is an item of; empty if there is none."""
    while isinstance(target, ast.Subscript):
        target = target.value
    return target.id if isinstance(target, ast.Name) else ""


def _assigned_names(body: Sequence[ast.stmt]) -> set[str]:
    """Return the variables that a body assigns as a whole."""
    targets = (
        target
        for statement in body
        for node in ast.walk(statement)
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.For, ast.AsyncFor))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    )
    return {
        name.id
        for each in targets
        for name in ast.walk(each)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    }


def _reached(
    node: ast.AST, variables: Mapping[str, object], step: Position | None
) -> Iterator[ast.AST]:
    """Yield a node and all nodes in it that a second run may reach.

    Statements after the step are left out, and branches whose condition is a plain attribute that
    is false. Handlers and `finally` blocks of a `try` are always included.
    """
    yield node
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and _is_false(node.test, variables):
        children = list(node.orelse)
    for child in children:
        until = None if child in _endings(node) else step
        if until is None or not isinstance(child, ast.stmt) or is_reached(child, until):
            yield from _reached(child, variables, until)


def _endings(node: ast.AST) -> Sequence[ast.AST]:
    """Return the handlers and the `finally` block of a `try`."""
    return [*node.handlers, *node.finalbody] if isinstance(node, ast.Try) else ()


def _is_false(test: ast.expr, variables: Mapping[str, object]) -> bool:
    """Return whether a condition such as `self.is_multi_gpu` is False or None."""
    path = ast.unparse(test).split(".")
    if not all(name.isidentifier() for name in path) or path[0] not in variables:
        return False
    value = variables[path[0]]
    for name in path[1:]:
        value = inspect.getattr_static(value, name, True)
    return value is False or value is None


def _is_learning_rate(target: ast.Subscript) -> bool:
    """Return whether an assignment sets an optimizer's learning rate, which is restored."""
    return isinstance(target.slice, ast.Constant) and target.slice.value == "lr"


def _called(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _assigned(body: Sequence[ast.stmt]) -> set[str]:
    return {
        node.id for statement in body for node in ast.walk(statement) if isinstance(node, ast.Name)
    }


def _function(loop: Loop, names: Sequence[str]) -> ast.Module:
    """Return a module that defines a function whose body is the loop's, run once."""
    once = ast.For(
        target=ast.Name("_esper_once", ast.Store()),
        iter=ast.Tuple([ast.Constant(0)], ast.Load()),
        body=loop.body,
        orelse=[],
        lineno=loop.lineno,
        col_offset=0,
        end_lineno=loop.end_lineno,
        end_col_offset=loop.end_col_offset,
    )
    values = ast.Call(ast.Name("locals", ast.Load()), [], [])
    arguments = ast.arguments(
        posonlyargs=[],
        args=[],
        kwonlyargs=[ast.arg(name) for name in names],
        kw_defaults=[None for _ in names],
        defaults=[],
    )
    function = ast.FunctionDef(
        name=LOOP_FUNCTION, args=arguments, body=[once, ast.Return(values)], decorator_list=[],
        lineno=loop.lineno, col_offset=0,
        end_lineno=loop.end_lineno, end_col_offset=loop.end_col_offset,
    )  # fmt: skip
    module = ast.Module(body=[function], type_ignores=[])
    return ast.fix_missing_locations(module)
