"""Runs the innermost loop of a training frame once more, up to the optimizer's step.

Weights have not moved yet when trouble is found, so the same minibatch gives the same NaN; this
time every operation is traced. The loop's body is taken from its source by `ast`, compiled with its
own file name and line numbers, and run on copies of the frame's variables. Afterwards everything
that it may have changed is put back bit for bit.

Only a body that does nothing but compute is run again: never one that steps an environment,
fetches a batch, or writes into a buffer.
"""

import ast
import contextlib
import copy
import inspect
import io
import random
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from esper.leyline.errors import EsperError

#: Methods and functions whose call in a loop's body means that it does more than compute.
_NOT_AGAIN = frozenset(
    {"next", "input", "open", "reset", "collect", "collect_rollouts", "rollout", "generate"}
    | {"save", "dump", "write", "put", "send", "recv", "all_reduce", "barrier", "learn", "fit"}
)
_Loop = ast.For | ast.While


class CannotRunAgainError(EsperError):
    """A loop's body cannot be run again; the message says why."""


class NoLoopError(CannotRunAgainError):
    """A frame has no source, or no loop around its current line: a caller of it may have one."""


class StepReached(BaseException):
    """Ends a second run at the optimizer's step. Not an Exception, so that no loop catches it."""


@dataclass(frozen=True)
class Body:
    """The body of a loop, ready to be run on a copy of its frame's variables."""

    frame: FrameType
    code: Any
    names: tuple[str, ...]

    def run(self) -> None:
        """Run the body once. `StepReached` ends it, or the exception that ended it before.

        Raises:
            CannotRunAgainError: the body ended without either.
        """
        variables = dict(self.frame.f_globals)
        local = self.frame.f_locals
        exec(self.code, variables)
        function = variables["_esper_body"]
        # What is said of it names the function that the user wrote.
        own = self.frame.f_code
        function.__code__ = function.__code__.replace(
            co_name=own.co_name, co_qualname=own.co_qualname
        )
        arguments = {name: _copied(local[name]) for name in self.names if name in local}
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                function(**arguments)
        except (StepReached, Exception):  # noqa: BLE001 - a refusal of NaN ends both runs alike
            return
        raise CannotRunAgainError("its second run did not reach the optimizer's step")


def body_of(frame: FrameType) -> Body:
    """Return the body of the innermost loop around a frame's current line.

    Raises:
        CannotRunAgainError: there is no source or no loop, or the body does more than compute.
    """
    lines, first = _source(frame)
    try:
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except SyntaxError as error:
        raise CannotRunAgainError(f"its source cannot be parsed: {error.msg}") from None
    ast.increment_lineno(tree, first - 1)
    loop = _innermost_loop(tree, frame.f_lineno)
    if loop is None:
        raise NoLoopError(f"no loop encloses line {frame.f_lineno}")
    before_step = [node for node in loop.body if node.lineno <= frame.f_lineno]
    _refuse_effects(before_step)
    names = tuple(name for name in frame.f_locals if name.isidentifier())
    if frame.f_locals is frame.f_globals:  # a script: its variables are the globals
        names = tuple(_assigned(loop.body) & set(frame.f_locals))
    code = compile(_function(loop, names), frame.f_code.co_filename, "exec")
    return Body(frame, code, names)


def _source(frame: FrameType) -> tuple[list[str], int]:
    try:
        if frame.f_code.co_name == "<module>":
            lines, _ = inspect.findsource(frame)
            return lines, 1
        return inspect.getsourcelines(frame.f_code)
    except (OSError, TypeError):
        raise NoLoopError(f"{frame.f_code.co_filename} has no source") from None


def _innermost_loop(tree: ast.AST, line: int) -> _Loop | None:
    around: list[_Loop] = [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.For, ast.While))
        and node.body[0].lineno <= line <= (node.end_lineno or node.lineno)
    ]
    return max(around, key=lambda node: node.lineno, default=None)


def _refuse_effects(body: Sequence[ast.stmt]) -> None:
    for node in (each for statement in body for each in ast.walk(statement)):
        if isinstance(node, (ast.Yield, ast.YieldFrom, ast.Await, ast.Global, ast.Nonlocal)):
            raise CannotRunAgainError(f"line {node.lineno} cannot be run again")
        if isinstance(node, ast.Call):
            name = _called(node.func)
            of = _owner(node.func)
            if name in _NOT_AGAIN or (name == "step" and "env" in of):
                raise CannotRunAgainError(f"line {node.lineno} calls {name}()")
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AugAssign):
            targets = [node.target]
        for target in targets:
            if isinstance(target, ast.Subscript) and not isinstance(target.value, ast.Constant):
                raise CannotRunAgainError(f"line {target.lineno} writes into a buffer")


def _called(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _owner(function: ast.expr) -> str:
    return ast.unparse(function.value).lower() if isinstance(function, ast.Attribute) else ""


def _assigned(body: Sequence[ast.stmt]) -> set[str]:
    return {
        node.id for statement in body for node in ast.walk(statement) if isinstance(node, ast.Name)
    }


def _function(loop: _Loop, names: Sequence[str]) -> ast.Module:
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
    arguments = ast.arguments(
        posonlyargs=[],
        args=[],
        kwonlyargs=[ast.arg(name) for name in names],
        kw_defaults=[None for _ in names],
        defaults=[],
    )
    function = ast.FunctionDef(
        name="_esper_body", args=arguments, body=[once], decorator_list=[], lineno=loop.lineno,
        col_offset=0, end_lineno=loop.end_lineno, end_col_offset=loop.end_col_offset,
    )  # fmt: skip
    module = ast.Module(body=[function], type_ignores=[])
    return ast.fix_missing_locations(module)


def _copied(value: Any) -> Any:
    """Return a container that can be appended to without changing the frame's own."""
    return copy.copy(value) if isinstance(value, (list, dict, set)) else value


@contextmanager
def everything_put_back(models: Sequence[nn.Module], variables: Sequence[object]) -> Iterator[None]:
    """Put back, at the end, all that running a minibatch again may change.

    Those are the states of random number generators, gradients, buffers, modes of modules, and the
    plain attributes (numbers, texts, lists) of objects.

    Args:
        models: that are trained.
        variables: of the loop's frame; among them are generators and objects with attributes.
    """
    parameters = [parameter for model in models for parameter in model.parameters()]
    gradients = [(parameter, parameter.grad) for parameter in parameters]
    buffers = [
        (module, name, buffer)
        for model in models
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    modes = [(module, module.training) for model in models for module in model.modules()]
    plain = [(each, _plain_attributes(each)) for each in variables if _has_attributes(each)]
    torch_generators = [(g, g.get_state()) for g in variables if isinstance(g, torch.Generator)]
    numpy_generators = [
        (g, copy.deepcopy(g.bit_generator.state))
        for g in variables
        if isinstance(g, np.random.Generator)
    ]
    states = (torch.get_rng_state(), np.random.get_state(), random.getstate())
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    # The second run gets tensors of its own. Writing into the first run's and putting their values
    # back would still break a backward pass that is yet to come.
    for parameter, gradient in gradients:
        parameter.grad = None if gradient is None else torch.zeros_like(gradient)
    for module, name, buffer in buffers:
        module._buffers[name] = buffer.detach().clone()
    try:
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, name, buffer in buffers:
            module._buffers[name] = buffer
        for module, mode in modes:
            module.training = mode
        for owner, attributes in plain:
            vars(owner).update(attributes)
        for torch_generator, state in torch_generators:
            torch_generator.set_state(state)
        for numpy_generator, numpy_state in numpy_generators:
            numpy_generator.bit_generator.state = numpy_state
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if on_devices is not None:
            torch.cuda.set_rng_state_all(on_devices)


def _has_attributes(value: object) -> bool:
    return hasattr(value, "__dict__") and not isinstance(value, (nn.Module, Tensor, type))


def _plain_attributes(owner: object) -> dict[str, Any]:
    return {
        name: _copied(value)
        for name, value in vars(owner).items()
        if value is None or isinstance(value, (bool, int, float, str, list, dict, set))
    }
