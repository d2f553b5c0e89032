"""Keeps PyTorch's compiler unloaded where nothing is compiled.

PyTorch loads `torch._dynamo` at the first call of some functions that must not be compiled: those
of optimizers and of every dispatch mode. Loading it takes longer than loading torch. A replay in a
new process takes 1.4 s without it and 2.6 s with it.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

#: Where PyTorch keeps the variant of a function that it made with the compiler's help.
_MADE: Final = "__dynamo_disable"
_OF_OPTIMIZERS: Final = ("add_param_group", "state_dict", "load_state_dict")


@contextmanager
def without_compiler(*modes: type[Any]) -> Iterator[None]:
    """Call functions of optimizers and dispatch modes as they are, without the compiler.

    Where the compiler is loaded already, nothing is changed.

    Args:
        modes: dispatch modes that are used inside.
    """
    functions = [getattr(torch.optim.Optimizer, name) for name in _OF_OPTIMIZERS]
    functions += [mode.__torch_dispatch__ for mode in modes]
    plain = [] if "torch._dynamo" in sys.modules else list(map(_plain, functions))
    changed = [one for one in plain if one is not None and not hasattr(one, _MADE)]
    for function in changed:
        setattr(function, _MADE, function)
    try:
        yield
    finally:
        for function in changed:
            delattr(function, _MADE)


def _plain(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return the original of a function that is wrapped so that it is not compiled."""
    return getattr(function, "__wrapped__", None)
