"""`esper.watch`: lights for any PyTorch training, without changes to the training loop.

While nothing is wrong, a watch checks three numbers per optimizer step: the loss, the gradient
norm, which clipping computes anyway, and the norm of the logits. Only if one of them is not finite,
it checks tensors, reads the loop's own variables, and runs the minibatch again under a tracer.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from esper.leyline.telemetry import SHARED
from esper.leyline.text.rank_words import ranks_words
from esper.tracing.recorded import RecordedMinibatch
from esper.watching.agreement import Agreement, NonfiniteHalt, OnNonfinite, Reaction
from esper.watching.checks.device_flags import DeviceFlags
from esper.watching.checks.flag_evidence import FLAGS_ONLY, found_in_flags
from esper.watching.checks.found import Found
from esper.watching.checks.looks import is_finite, joined, numbers_of
from esper.watching.checks.update_look import NO_STEPS, WEIGHTS_ONLY, UpdateLook
from esper.watching.finding.beginning import Owners
from esper.watching.finding.explainer import Explainer, Replay
from esper.watching.finding.frames import frames_of_traceback
from esper.watching.finding.repeating.repeater import Repeater
from esper.watching.given import Given
from esper.watching.guard import Guard
from esper.watching.hooking.hooks import TrainingHooks
from esper.watching.incidents import Incidents
from esper.watching.minibatch_watch import MinibatchWatch
from esper.watching.model.heads import gives_widths, heads_of, output_layer_of
from esper.watching.model.parts import Groups, Part, device_of, parts_of, patterns_of
from esper.watching.model.start_state import StartState
from esper.watching.ordinary_steps import OrdinarySteps
from esper.watching.recorder import NoRecorder, Recorder, Trouble, UpdateRecord

When = Literal["auto", "step", "update"]
_log = logging.getLogger("esper")


class Watch:
    """Watches the training of some models until it is closed. Use `esper.watch` to create one."""

    def __init__(
        self,
        models: Iterable[nn.Module],
        optimizers: Iterable[torch.optim.Optimizer] = (),
        heads: Any = None,
        *,
        groups: Groups | None = None,
        output_layer: nn.Module | None = None,
        on_nonfinite: OnNonfinite = "report",
        recorder: Recorder | None = None,
        when: When = "step",
        replay: Replay = "auto",
        finds_updates: bool = True,
        first_update: int = 1,
        inputs: Callable[[], Mapping[str, Any]] = dict,
        repeater: Repeater | None = None,
        hooks_steps: bool = True,
        record_bytes: int = 0,
        agreement: Agreement | None = None,
        has_ranks: bool = False,
    ) -> None:
        self._models = list(models)
        self._optimizers = list(optimizers)
        self.heads = heads_of(heads)
        output_layer, warning = output_layer_of(
            self._models, self.heads, output_layer, is_exact=gives_widths(heads)
        )
        if warning:
            _log.warning("%s", warning)
        self.parts: list[Part] = parts_of(self._models, self.heads, output_layer, groups)
        self._guard = Guard(NoRecorder() if recorder is None else recorder)
        self._is_closed = False
        self.owners = Owners(self._models, self.parts, self.heads, patterns_of(groups))
        self._explainer = Explainer(
            self.owners, self._guard, replay, self._optimizers, inputs, repeater, record_bytes
        )
        self._incidents = Incidents(
            self._explainer, self.parts, self._guard, takes_bad_steps=on_nonfinite == "report"
        )
        self._look = UpdateLook([part.parameter for part in self.parts])
        if when == "auto":
            is_on_cpu = device_of(self.parts).type == "cpu"
            when = "step" if is_on_cpu or on_nonfinite != "report" else "update"
        self._flags = DeviceFlags.of(self.heads, self.parts) if when == "update" else None
        is_plain = self._flags is None and repeater is None
        self._minibatches = (OrdinarySteps if is_plain else MinibatchWatch)(
            self.parts,
            self.heads,
            self._optimizers,
            self._explainer,
            self._incidents,
            self._guard,
            self._flags,
            repeater,
            UpdateRecord(first_update),
            reaction=Reaction(on_nonfinite, agreement, self._guard, self._halt),
            end_update=self._end_update,
            finds_updates=finds_updates,
            counts_updates=has_ranks,
            has_optimizer=bool(self._optimizers) or not hooks_steps,
        )
        self._is_paused = False
        self._no_numbers: set[str] = set()  # names of figures
        self._start: StartState | None = None
        self._updating_since = 0.0
        self._hooks = TrainingHooks(
            self._minibatches, output_layer, self._optimizers, hooks_steps=hooks_steps
        )
        self._hooks.attach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end(error, traceback)

    def record_with(self, recorder: Recorder, first_update: int | None = None) -> None:
        """Set the recorder, and the number of the current update if it is given."""
        self._guard.recorder = recorder
        if first_update is not None:
            self._minibatches.record.number = first_update

    @property
    def troubles(self) -> list[Trouble]:
        """The incidents so far."""
        return self._incidents.found

    @property
    def guard(self) -> Guard:
        """A context manager that counts failures of an integration's checks; training continues."""
        return self._guard

    @property
    def failures(self) -> int:
        """Number of failures of the watch itself; training continues after each."""
        return self._guard.failures

    @property
    def last_failure(self) -> str:
        """The last failure of the watch, as a sentence."""
        return self._guard.last_failure

    def update(self, **figures: float) -> None:
        """End the current update and add figures; from now on, only this method ends updates."""
        if self._is_closed:
            return
        self._minibatches.finds_updates = False
        self.log(**figures)
        with self._guard:
            self._end_update()

    def log(self, **figures: float) -> None:
        """Add figures to the current update.

        A later value of the same name replaces a finite one; a NaN or an infinity is kept until the
        end of the update. Figures are only recorded and turn no light on.

        A value that is not a number is ignored, and logged once per name.
        """
        for name, value in figures.items():
            try:
                number = float(value)
            except Exception:  # noqa: BLE001 - an object of the training may raise anything
                if name not in self._no_numbers:
                    self._no_numbers.add(name)
                    _log.warning("the figure %r is ignored: %s is not a number", name, type(value))
                continue
            self._minibatches.record.log(name, number)

    @property
    def recorder(self) -> Recorder:
        """The recorder, which receives all findings."""
        return self._guard.recorder

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Mark all calls inside as part of an update, even model calls without gradients."""
        self._updating_since = time.monotonic()
        self._minibatches.is_updating = True
        if self._start is not None and not self._is_closed:
            with self._guard:
                self._start.take()
        try:
            yield
        finally:
            self._minibatches.record.add_learning_time(self._updating_since)
            self._minibatches.is_updating = False

    def keep_start(self, limit: int) -> None:
        """From now on, keep a copy of the state before each update (see `updating`).

        Args:
            limit: maximum size in bytes; a larger state is not kept.
        """
        self._start = StartState(self._models, self._optimizers, limit)

    def start_of(self, trouble: Trouble, limit: int) -> dict[str, Any]:
        """Return the state before the update of an incident that was just found.

        While acting, or if no such state was kept, return the current state.

        Args:
            trouble: the incident.
            limit: maximum size in bytes; for a larger state, the result is empty.
        """
        if self._start is not None and self.keeps_start and trouble.phase == "update":
            return self._start.values
        now = StartState(self._models, self._optimizers, limit)
        now.take()
        return now.values

    @property
    def keeps_start(self) -> bool:
        """Whether the state before the current update is kept."""
        return self._start is not None and self._start.is_taken

    @property
    def variables(self) -> Mapping[str, Tensor]:
        """The training loop's own tensors in an incident that was just found, by name."""
        return self._explainer.variables

    @property
    def recorded(self) -> RecordedMinibatch | None:
        """The recorded operations of the minibatch of an incident that was just found."""
        return self._explainer.recorded

    @property
    def is_clean(self) -> bool:
        """Whether there is no incident or bad input in this update, and no lasting damage."""
        own = self._incidents
        return not (self._minibatches.record.troubles or own.given or own.is_broken)

    @property
    def is_closed(self) -> bool:
        """Whether the watch has ended."""
        return self._is_closed

    @property
    def has_stepped(self) -> bool:
        """Whether there was an optimizer step, taken or skipped, since the last update ended."""
        return self._minibatches.record.steps > 0

    def hold(self, result: Tensor, owner: str = SHARED, quantity: str = "loss") -> None:
        """Check a scalar of this minibatch, such as its loss, at the optimizer's step."""
        if not self._is_closed:
            self._minibatches.hold(result, owner, quantity)

    def before_step(self, optimizer: torch.optim.Optimizer, *, is_scaled: bool = False) -> None:
        """Report that an optimizer is about to step, if its hooks are called at other times.

        Args:
            optimizer: the optimizer.
            is_scaled: whether a loss scaler skips the step if gradients are not finite.
        """
        if not self._is_closed and not self._is_paused:
            self._minibatches.held.is_scaled = is_scaled
            self._minibatches.on_step(optimizer)

    def after_step(self) -> None:
        """Report that the step is over, whether it was taken or not."""
        if not self._is_closed:
            self._minibatches.on_step_over()

    def pause(self) -> None:
        """Remove all hooks, for example to script or export the model; see `resume`."""
        self._is_paused = True
        self._hooks.detach()

    def resume(self) -> None:
        """Attach the hooks again after `pause`."""
        if self._is_paused and not self._is_closed:
            self._hooks.attach()
        self._is_paused = False

    def end(self, error: BaseException | None, traceback: TracebackType | None = None) -> None:
        """Close the watch; if training ended with an exception, explain it first."""
        if error is None or self._is_closed:
            self.close()
        elif isinstance(error, NonfiniteHalt):
            self._close("halted", "")
        elif isinstance(error, KeyboardInterrupt):
            self._close("stopped", "interrupted")
        else:
            self.explain(error, traceback)
            first_line = str(error).partition("\n")[0]
            self._close("failed", f"{type(error).__name__}: {first_line}".rstrip(": "))

    def explain(self, error: BaseException, traceback: TracebackType | None = None) -> None:
        """Report non-finite values at an exception after which training continues."""
        if not self._is_closed:
            with self._guard:
                self._explain_exception(traceback or error.__traceback__)
                self._repeat_in(error)

    def _repeat_in(self, error: BaseException) -> None:
        """Add the last finding as a note to an exception, which is printed below the traceback."""
        if (finding := self._guard.recorder.last_finding) and self._incidents.found:
            error.add_note(finding)

    def close(self) -> None:
        """End the last update and remove all hooks. May be called more than once."""
        self._close("finished", "")

    def _close(self, status: str, reason: str) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        record = self._minibatches.record
        record.is_whole = status == "finished"
        with self._guard:
            if record.is_empty and not self._minibatches.has_optimizer:  # nothing was checked
                self._look_back(record)
            if not record.is_empty or self._incidents.given:
                self._end_update(is_last=True)
        self._hooks.detach()
        with self._guard:
            self._guard.recorder.ended(status, reason)

    def check(self, head: str, values: Any, quantity: str = "output", made_by: str = "") -> bool:
        """Check values that no layer of the model computes, such as the rewards of a function.

        Non-finite values are reported once per update, until the watch is closed.

        Args:
            head: the head that the values belong to.
            values: a tensor, an array or a list of numbers.
            quantity: name of the quantity.
            made_by: source of the values for the report, such as a function with file and line.

        Returns:
            Whether all values are finite.
        """
        with self._guard:
            record = self._minibatches.record
            phase = "update" if self._minibatches.is_updating or record.steps else "acting"
            if self._is_closed:
                return is_finite(torch.as_tensor(values))
            return self._incidents.check(record, (head, quantity), values, made_by, phase)
        return True

    def came_in(
        self,
        quantity: str,
        kind: str,
        environment: int,
        step: int,
        *,
        is_observation: bool = False,
        is_kept: bool = False,
    ) -> None:
        """Report a non-finite value that an environment returned.

        It is recorded together with its first consequence, or at the end of the update.

        Args:
            quantity: the library's name of the quantity.
            kind: "nan", "+inf" or "-inf".
            environment: number of the environment, as the library counts them.
            step: step of that environment, counted from 1; 0 is its first reset.
            is_observation: whether the next actions are computed from it.
            is_kept: whether it is kept for later updates, as in a replay buffer.
        """
        if self._is_closed:
            return
        given = self._incidents.given
        given.is_kept |= is_kept
        found = Found(SHARED, quantity, kind, environment=environment, step=step)
        given.add(Given(found, is_observation))

    def _halt(self, ranks: Sequence[int]) -> None:
        self._close("halted", ranks_words(ranks) if ranks else "")
        raise NonfiniteHalt(3)

    def _explain_exception(self, traceback: TracebackType | None) -> None:
        if self._flags is not None and not self._incidents.is_broken:
            self._look_back(self._minibatches.record)  # the first bad step, before consequences
        if not self._minibatches.record.troubles and not self._incidents.is_broken:
            self._minibatches.explain_exception(frames_of_traceback(traceback))

    def _end_update(self, *, is_last: bool = False) -> None:
        record = self._minibatches.record
        if self._minibatches.is_updating:
            record.add_learning_time(self._updating_since)
        if self._minibatches.last_optimizer is not None:
            with self._guard:
                record.learning_rate = float(self._minibatches.last_optimizer.param_groups[0]["lr"])
        with self._guard:  # the update is recorded even if this fails
            self._look_back(record)
        self._incidents.end_update(record, is_last=is_last)
        record.still_updates = self._look.still_for
        record.ended = time.monotonic()
        self._minibatches.record = UpdateRecord(record.number + 1)
        self._updating_since = self._minibatches.record.began
        self._minibatches.forget_minibatch()
        self._guard.recorder.updated(record)

    def _look_back(self, record: UpdateRecord) -> None:
        """Read the flags, and whether weights and optimizer state are finite, once per update."""
        is_finite_and_same = self._look.look(self._explainer.moments())
        owners, measured = self._minibatches.owner_norms.take()
        looked_at = [*is_finite_and_same, *measured]
        if self._flags is None:
            is_finite, is_same, *norms = numbers_of(looked_at)
        else:
            excess = self._minibatches.std.excess()
            more = joined([excess is not None and excess, *looked_at], device_of(self.parts))
            flags, others = self._minibatches.read_flags(more)
            excess_of_std, is_finite, is_same, *norms = others
            self._minibatches.std.overflows = excess_of_std > 0
            record.norm_sum, record.norm_max, record.norms = flags.norms
            if flags.first_step:
                found = found_in_flags(flags, self.heads, self.parts)
                self._incidents.note_lasting(record, found, FLAGS_ONLY, flags.first_step)
            elif flags.bad_loss:
                self._incidents.note_loss(record, FLAGS_ONLY, *flags.bad_loss)
        record.owner_norms = self._minibatches.owner_norms.of_owners(owners, norms)
        if is_finite:
            self._incidents.is_broken = False  # no lasting damage: report new findings
        elif not self._incidents.is_broken:
            found = self._explainer.weights()
            reason = WEIGHTS_ONLY if record.steps else NO_STEPS
            self._incidents.note_lasting(record, found, reason, record.steps)
        by_scaler = record.skipped - record.left_out  # usual until the loss scale fits
        had_steps = self._minibatches.has_optimizer and record.steps > by_scaler
        self._look.count(is_still=bool(is_same) or record.is_still, had_steps=had_steps)

    @property
    def is_stalled(self) -> bool:
        """Whether no weight moved for several updates with optimizer steps."""
        return self._look.is_stalled
