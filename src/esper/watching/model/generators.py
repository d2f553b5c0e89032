"""States of random generators other than torch's own, from which the last minibatches began.

Asking Python and NumPy for the state of their global generators takes 18 and 40 µs. So the states
are copied out of the generators' memory, and only if they have moved, which takes 0.2 µs to see.
How that memory is laid out is found out on other generators first; if it is unknown, nothing is
copied.
"""

import ctypes
import random
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import is_
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch

_STEPS_OF_A_LOOP: Final = 4  # as many optimizers may step in one pass of a loop
_WORDS: Final = 624  # of a Mersenne Twister
_BYTES: Final = 4 * (_WORDS + 1)  # with its position
_DOUBLE: Final = 8
_MOST: Final = 8  # generators of the loop
_QUIET_AFTER: Final = 8  # updates in which the loop had the same generators
_LOOKS_EACH: Final = 16  # updates

_NOTHING: Final = memoryview(bytes(_DOUBLE)).cast("Q")
#: Puts a generator back to the state that it had.
Restore = Callable[[], object]


class _Python:
    """Python's global generator."""

    def __init__(self) -> None:
        self._generator: Any = random._inst  # it has no public name
        address = id(self._generator) + object.__basicsize__
        self._all = (ctypes.c_char * _BYTES).from_address(address)
        self.peek = _number_at(address)  # the position and the first word
        _, words, _ = self._generator.getstate()
        if struct.unpack(f"{_WORDS + 1}I", self._all.raw) != (words[-1], *words[:-1]):
            raise NotImplementedError

    @property
    def has_spare(self) -> bool:
        """Whether a number was drawn in advance: the next draw may not move the generator."""
        return self._generator.gauss_next is not None

    def state(self) -> Restore:
        """Return what restores the current state."""
        return partial(_restore_python, self._all.raw, self._generator.gauss_next)


def _restore_python(state: bytes, gauss: float | None) -> None:
    position, *words = struct.unpack(f"{_WORDS + 1}I", state)
    random.setstate((3, (*words, position), gauss))


class _NumPy:
    """NumPy's global generator."""

    def __init__(self) -> None:
        self._generator: Any = np.random.mtrand._rand
        self._bits = self._generator._bit_generator
        if type(self._bits) is not np.random.MT19937:
            raise NotImplementedError
        address = self._bits.ctypes.state_address
        self._all = (ctypes.c_char * _BYTES).from_address(address)
        self.peek = _number_at(address + _BYTES - _DOUBLE)  # the last word and the position
        gauss = id(self._generator) + _offset_of_gauss()
        self._has_gauss = ctypes.c_int.from_address(gauss - _DOUBLE)
        self._gauss = ctypes.c_double.from_address(gauss)
        known = np.random.get_state(legacy=False)
        if struct.unpack(f"{_WORDS + 1}I", self._all.raw) != (
            *known["state"]["key"].tolist(),
            known["state"]["pos"],
        ) or (self._has_gauss.value, self._gauss.value) != (known["has_gauss"], known["gauss"]):
            raise NotImplementedError

    @property
    def has_spare(self) -> bool:
        """Whether a number was drawn in advance: the next draw may not move the generator."""
        return bool(self._has_gauss.value)

    def state(self) -> Restore:
        """Return what restores the current state."""
        drawn = self._has_gauss.value, self._gauss.value
        return partial(_restore_numpy, self._bits, self._all.raw, *drawn)


def _number_at(address: int) -> memoryview:
    """Return a view of eight bytes as one number, which is quicker to read than by ctypes."""
    return memoryview((ctypes.c_char * _DOUBLE).from_address(address)).cast("B").cast("Q")


def _offset_of_gauss() -> int:
    """Return where NumPy's older generators keep the number that they draw next, if any.

    Raises:
        NotImplementedError: it is not where a number drawn in advance is found.
    """
    other: Any = np.random.RandomState(0)
    other.standard_normal()
    drawn = other.get_state(legacy=False)["gauss"]
    size = np.random.RandomState.__basicsize__ // _DOUBLE
    memory = (ctypes.c_double * size).from_address(id(other))
    found = [number for number in range(size) if memory[number] == drawn]
    if len(found) != 1:
        raise NotImplementedError
    return found[0] * _DOUBLE


def _restore_numpy(bits: Any, state: bytes, has_gauss: int, gauss: float) -> None:
    if np.random.mtrand._rand._bit_generator is bits:  # else another one has its place
        *words, position = struct.unpack(f"{_WORDS + 1}I", state)
        key = np.array(words, np.uint32)
        np.random.set_state(("MT19937", key, position, has_gauss, gauss))


@dataclass(frozen=True)
class Generators:
    """States of generators at the start of a minibatch."""

    states: tuple[Restore, ...] = ()

    def restore(self) -> None:
        """Put all generators back to these states."""
        for restore in self.states:
            restore()


@dataclass(frozen=True)
class Start:
    """States of all generators from which a minibatch may have begun.

    Attributes:
        rng: state of torch's generator.
        others: states of the others; None if they are unknown.
    """

    rng: torch.Tensor
    others: Generators | None = None

    def restore(self) -> None:
        """Put all generators back to these states."""
        torch.set_rng_state(self.rng)
        if self.others is not None:
            self.others.restore()


class GeneratorStates:
    """States of Python's, NumPy's and the loop's own generators after the last optimizer steps."""

    def __init__(self) -> None:
        self._readers = [*_readers()]
        self._own: list[Any] = []
        self._calls = 0  # of `find`
        self._equal = 0  # of these in a row in which it found the same
        views = [one.peek for one in self._readers]
        self._first, self._second = (*views, _NOTHING, _NOTHING)[:2]
        self._known = (-1, -1)
        self._has_spare = False  # numbers that were drawn in advance
        self._states: deque[Generators] = deque(maxlen=_STEPS_OF_A_LOOP)
        self.step_over()

    def step_over(self) -> None:
        """Take note that an optimizer's step is over."""
        now = self._first[0], self._second[0]
        if now == self._known and not self._has_spare and not self._own:
            self._states.appendleft(self._states[0])
            return
        self._known = now
        self._has_spare = any(one.has_spare for one in self._readers)
        states = [one.state() for one in self._readers]
        states += [restoring(one) for one in self._own]
        self._states.appendleft(Generators(tuple(states)))

    def find(self, variables: Callable[[], Iterable[object]]) -> None:
        """Find the loop's own generators among the variables around an optimizer's step.

        Called once per update. While the generators stay the same, every sixteenth call looks.

        Args:
            variables: returns them.
        """
        self._calls += 1
        if self._equal >= _QUIET_AFTER and self._calls % _LOOKS_EACH:
            return
        found = {id(one): one for one in generators_in(variables())}
        own = list(found.values())[:_MOST]
        is_equal = len(own) == len(self._own) and all(map(is_, own, self._own))
        self._equal = self._equal + 1 if is_equal else 0
        self._own = own

    def of_minibatch(self) -> tuple[Generators, ...]:
        """Return the states that the current minibatch may have begun at, the newest first."""
        return tuple(self._states)


def _readers() -> Iterator[_Python | _NumPy]:
    for reader in (_Python, _NumPy):
        try:
            yield reader()
        except Exception:  # noqa: BLE001 - another layout, in any way: its draws are not repeated
            continue


def generators_in(values: Iterable[object]) -> Iterator[Any]:
    """Yield the generators among some values, and among the attributes of these."""
    for value in values:
        try:
            yield from _generators_of(value)
        except Exception:  # noqa: BLE001 - an object of the training may refuse in any way
            continue


def _generators_of(value: object) -> list[Any]:
    if isinstance(value, _KINDS):
        return [value]
    if isinstance(value, (ModuleType, type, torch.Tensor)) or type(value).__module__ == "builtins":
        return []
    return [one for one in vars(value).values() if isinstance(one, _KINDS)]


_KINDS: Final = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def restoring(generator: Any) -> Restore:
    """Return what puts a generator back to its current state."""
    if isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        return partial(setattr, bits, "state", bits.state)
    if isinstance(generator, torch.Generator):
        return partial(generator.set_state, generator.get_state())
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    return partial(generator.set_state, generator.get_state(legacy=False))
