"""Repeats a minibatch in a forked child process, whose memory is discarded afterwards.

A second run may change anything: weights, replay buffers, counters in closures. In a child process,
nothing needs to be restored. Memory that the training shares with other processes is made private.
The child cannot use the training's open sockets or write to its files, and cannot open files for
writing.
"""

import functools
import gc
import os
import pickle
import random
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

import torch
from torch import nn

from esper.leyline.errors import EsperError
from esper.tracing.recorded import RecordedMinibatch
from esper.tracing.tracer import OperationTracer
from esper.tracing.without_compiler import without_compiler
from esper.watching.finding.child.isolation import REFUSED, cut_off
from esper.watching.finding.child.private_memory import SharedMemoryError, make_memory_private
from esper.watching.finding.child.sending import packed, sendable, unpacked
from esper.watching.finding.explaining import Explanation
from esper.watching.finding.repeating.without_partners import computes_alone, has_partners
from esper.watching.guard import Guard

#: Seconds after which a child is killed, because its second run may wait forever.
LIMIT_S: Final = 60.0
#: Time limit of a child as a multiple of the minibatch's first run, which used all cores and was
#: not traced; never more than `LONGEST_S`.
_TIMES: Final = 20.0
LONGEST_S: Final = 1800.0
#: Seconds without any computation after which a child is killed: it waits for a lock that another
#: thread of the training held when it was forked, or for a thread or process that it cannot reach.
STUCK_S: Final = 2.0
_MOST_STUCK: Final = 3  # children, after which no more are forked
_LOOK_S: Final = 0.25


class Apart:
    """Decides how minibatches are repeated: in a child process, in place, or not at all.

    Args:
        guard: the watch's guard.
        models: the watched models.
        is_off: whether repetition is switched off.

    Attributes:
        not_again: why nothing is repeated from now on; empty if repetition is possible.
        failures: failures of the watch in a child; None in the training process.
        minibatch_seconds: duration of the first run of the repeated minibatch.
    """

    def __init__(self, guard: Guard, models: Sequence[nn.Module], *, is_off: bool) -> None:
        self._guard, self._models, self._is_off = guard, models, is_off
        self.minibatch_seconds = 0.0
        self._stuck = 0
        self.not_again = ""
        self.failures: list[Exception] | None = None

    def why_never(self, *, has_library: bool = False) -> str:
        """Return why no minibatch of any loop is repeated; empty if repetition is possible.

        Args:
            has_library: whether the repetition also runs code of a library around the minibatch.
        """
        if self._is_off:
            return "repeating a minibatch is switched off"
        # Collective calls of a second run would block, or be matched with another step's calls.
        if has_partners() and (has_library or not computes_alone(self._models)):
            return "training runs in several processes, and a second run would block the others"
        return self.not_again

    @property
    def is_child(self) -> bool:
        """Whether this process is the child."""
        return self.failures is not None

    def is_in_child(self) -> bool:
        """Return whether minibatches are repeated in a child process."""
        return not self.why_never() and can_fork(self._models)

    @property
    def limit_s(self) -> float:
        """Seconds after which a child is killed."""
        return max(LIMIT_S, min(_TIMES * self.minibatch_seconds, LONGEST_S))

    def is_hopeless(self, error: EsperError) -> bool:
        """Count a child that was lost; return whether no other child is forked from now on."""
        self._stuck += isinstance(error, _StuckError)
        return isinstance(error, _TooLongError) or self._stuck >= _MOST_STUCK

    def count(self, error: Exception) -> None:
        """Count a failure of the watch."""
        if self.failures is None:
            self._guard.count(error)
        else:
            self.failures.append(error)


class _Explains(Protocol):
    apart: Apart
    recorded: RecordedMinibatch | None


_Owner = TypeVar("_Owner", bound=_Explains)
_Arguments = ParamSpec("_Arguments")


class _LostError(EsperError):
    """A child process ended without a result; the message says why."""


class _TooLongError(_LostError):
    """A child process was killed because it took too long."""


class _StuckError(_LostError):
    """A child process was killed because it waited and computed nothing."""


def can_fork(models: Sequence[nn.Module]) -> bool:
    """Return whether a forked child can repeat the computation of the training process.

    A forked child cannot use an accelerator or communicate with other ranks. Parameters in shared
    memory would be changed for all processes.
    """
    return (
        sys.platform == "linux"
        and not torch.accelerator.is_available()
        and not (torch.distributed.is_available() and torch.distributed.is_initialized())
        and not any(one.is_shared() for model in models for one in model.parameters())
        and not any(one.is_shared() for model in models for one in model.buffers())
    )


def apart(
    method: Callable[Concatenate[_Owner, _Arguments], Explanation],
) -> Callable[Concatenate[_Owner, _Arguments], Explanation]:
    """Decorate a method that repeats a minibatch, to run it in a child process if possible."""

    @functools.wraps(method)
    def run(owner: _Owner, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Explanation:
        if not owner.apart.is_in_child():
            return method(owner, *args, **kwargs)

        def in_child() -> tuple[Explanation, RecordedMinibatch | None, list[Exception]]:
            failures = owner.apart.failures = []
            with without_compiler(OperationTracer):  # the compiler takes seconds to load
                explanation = method(owner, *args, **kwargs)
            if explanation.origin is None and REFUSED:
                explanation = replace(explanation, why_no_origin=f"its second run {REFUSED[0]}")
            return explanation, owner.recorded, [sendable(one) for one in failures]

        try:
            explanation, owner.recorded, failures = result_of_child(in_child, owner.apart.limit_s)
        except _LostError as error:
            owner.apart.not_again = str(error)
            try:
                return method(owner, *args, **kwargs)
            finally:  # do not wait again for a repetition that took too long once
                if not owner.apart.is_hopeless(error):
                    owner.apart.not_again = ""
        for failure in failures:
            owner.apart.count(failure)
        return explanation

    return run


def result_of_child(function: Callable[[], Any], limit_s: float) -> Any:
    """Call a function in a forked child process, and return its result.

    Args:
        function: function to call.
        limit_s: seconds after which the child is killed.

    Raises:
        _LostError: the child was killed, or the training code ended it.
        Exception: the exception that the function raised.
    """
    rng = random.getstate()  # Python reseeds it in a forked child
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with other threads
        try:
            child = os.fork()
        except OSError as error:
            os.close(reader)
            os.close(writer)
            raise _LostError(f"no process could be started to repeat it: {error}") from None
    if child == 0:
        _be_child(function, writer, rng, limit_s)
    try:
        os.close(writer)
        content = _read(reader, limit_s, child)
    finally:
        os.close(reader)
        status = _end(child)
    try:
        kind, value = unpacked(content)
    except (pickle.UnpicklingError, EOFError):
        raise _LostError(f"the process that repeated it {_how_it_ended(status)}") from None
    if kind == "lost":
        raise _LostError(value)
    if kind == "raised":
        raise value
    return value


def _be_child(
    function: Callable[[], Any], writer: int, rng: tuple[Any, ...], limit_s: float
) -> None:
    """Call a function, send its result, and exit without cleanup."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, limit_s)  # in case the parent ends first
        gc.disable()  # finalizers of the training's objects may end its workers
        torch.set_num_threads(1)  # threads of OpenMP do not survive a fork
        random.setstate(rng)
        try:
            make_memory_private()
            cut_off(writer)
            result = ("value", function())
        except SharedMemoryError as error:
            result = ("lost", str(error))
        except Exception as error:  # noqa: BLE001 - raised again by the parent
            result = ("raised", sendable(error))
        except BaseException as error:  # noqa: BLE001 - such as SystemExit
            result = ("lost", f"its second run ended with {type(error).__name__}")
        content = memoryview(packed(result))
        while content:
            content = content[os.write(writer, content) :]
    finally:
        os._exit(0)


def _read(reader: int, limit_s: float, child: int) -> bytes:
    """Return all that a child sends within some seconds."""
    now = time.monotonic()
    deadline, last_progress, progress = now + limit_s, now, ""
    poll, content = select.poll(), bytearray()
    poll.register(reader, select.POLLIN)
    while now < deadline:
        if poll.poll(min(_LOOK_S, deadline - now) * 1000):
            if not (more := os.read(reader, 1 << 20)):
                return bytes(content)
            content += more
            last_progress = time.monotonic()
        now = time.monotonic()
        before, progress = progress, _progress_of(child)
        if not progress or progress != before:
            last_progress = now
        elif now - last_progress > STUCK_S:
            raise _StuckError(
                "its second run waited for a lock, thread or process out of its reach"
            )
    raise _TooLongError(f"its second run took longer than {limit_s:g} s")


def _progress_of(child: int) -> str:
    """Return the processor time of a process that sleeps; empty if it runs or waits for a disk."""
    try:
        with open(f"/proc/{child}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    state, user, system = fields[0], fields[11], fields[12]
    return f"{user!r} {system!r}" if state == b"S" else ""


def _how_it_ended(status: int | None) -> str:
    if status is not None and os.WIFSIGNALED(status):
        return f"was killed by signal {os.WTERMSIG(status)}"
    return "ended without a result"


def _end(child: int) -> int | None:
    """Kill a child, and return its exit status; None if the program reaps its children itself."""
    try:
        os.kill(child, signal.SIGKILL)  # it has sent everything, or taken too long
        return os.waitpid(child, 0)[1]
    except (ChildProcessError, ProcessLookupError):
        return None
