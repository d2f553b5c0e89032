"""Each reward function of TRL's GRPO and RLOO trainers is a head with its own lights.

TRL turns an infinite reward into an advantage of 0, and treats a NaN as "no reward". Neither shows
in the loss, so the values that each function returns are checked.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from esper.recipes.transformers.trainer import reward_names
from esper.watching.watch import Watch


@contextmanager
def checked_rewards(trainer: Any, watch: Watch) -> Iterator[None]:
    """Check the values of each reward function of a trainer within the context."""
    functions = getattr(trainer, "reward_funcs", None)
    if not isinstance(functions, list):
        yield
        return
    before, handles = list(functions), []
    for number, (function, name) in enumerate(zip(before, reward_names(trainer), strict=True)):
        if isinstance(function, nn.Module):
            handles.append(function.register_forward_hook(_model_checker(watch, name)))
        else:
            functions[number] = _checked(function, watch, name)
    try:
        yield
    finally:
        functions[:] = before
        for handle in handles:
            handle.remove()


def _checked(function: Any, watch: Watch, name: str) -> Callable[..., Any]:
    """Return a function that calls `function` and checks its result; async if that is async."""
    made_by = _place(function, name)

    def checked(rewards: Any) -> Any:
        rewards = rewards if hasattr(rewards, "__len__") else list(rewards)
        given = [reward for reward in rewards if reward is not None]  # None: does not apply
        watch.check(name, given, "reward", made_by)
        return rewards

    if _is_async(function):

        @functools.wraps(function)
        async def later(*args: Any, **kwargs: Any) -> Any:
            return checked(await function(*args, **kwargs))

        return later

    @functools.wraps(function)
    def now(*args: Any, **kwargs: Any) -> Any:
        return checked(function(*args, **kwargs))

    return now


def _is_async(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    is_async = inspect.iscoroutinefunction
    return is_async(function) or is_async(type(function).__call__)


def _model_checker(watch: Watch, name: str) -> Callable[..., None]:
    def check(_module: nn.Module, _inputs: Any, output: Any) -> None:
        watch.check(name, output.logits[:, 0], "reward", f"the reward model {name}")

    return check


def _place(function: Any, name: str) -> str:
    """Return the name of a function, with its file and line if it has them."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return f"the reward function {name}"
    return f"the reward function {name} ({code.co_filename}:{code.co_firstlineno})"
