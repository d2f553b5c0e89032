"""`esper.watch`: the lights for any PyTorch training, while its loop stays as it is.

While nothing is wrong, a watch looks at two numbers per optimizer step: the norm of the gradients,
which clipping measures anyway, and the sum of the logits. Only when one of them is not finite does
it look at tensors, read the loop's own variables, and run the minibatch again under a tracer.
"""

import math
import re
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Final, Literal, Self

import torch
from torch import Tensor, nn

from esper.leyline.telemetry import SHARED, STALLED_UPDATES
from esper.watching.device_flags import DeviceFlags
from esper.watching.explainer import Explainer, Replay
from esper.watching.explaining import Explanation, Found, Minibatch
from esper.watching.flag_evidence import FLAGS_ONLY, found_in_flags
from esper.watching.frames import frames_calling, frames_of_traceback
from esper.watching.heads import OUTPUT_QUANTITIES, find_output_layer, heads_of, output_width
from esper.watching.held import HeldMinibatch
from esper.watching.hooks import ClipWatch, OutputHook, ScalerWatch, hook_steps
from esper.watching.parts import Part, kinds_of, parts_of
from esper.watching.recorder import NoRecorder, Recorder, Trouble, UpdateRecord
from esper.watching.repeater import Repeater
from esper.watching.start_state import StartState

OnNonfinite = Literal["report", "skip", "halt"]
When = Literal["auto", "step", "update"]
_SUM: Final = torch.float32  # type of the sum of an output; a sum in half precision overflows
_STEPS_OF_A_LOOP: Final = 4  # as many optimizers may step in one pass of a loop
_WEIGHTS_ONLY: Final = "it was seen in the weights after the update, not in a minibatch"
_UPDATE_SECONDS: Final = 1.0  # length of an update where the loop shows no boundary
_LEFT_OUT: Final = 64  # of the steps that a loss scaler leaves out, so many are looked at


class NonfiniteHalt(SystemExit):
    """Ends the process with exit code 3 because something was not finite."""


class Watch:
    """Watches the training of some models until it is closed. Use `esper.watch` to make one.

    Attributes:
        troubles: what was found so far.
        failures: how often the watch itself failed; training continues.
        last_failure: the last of these, as a sentence.
    """

    def __init__(
        self,
        models: Iterable[nn.Module],
        optimizers: Iterable[torch.optim.Optimizer] = (),
        heads: Any = None,
        *,
        groups: Mapping[str, str | re.Pattern[str]] | None = None,
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
    ) -> None:
        self._models = list(models)
        self._optimizers = list(optimizers)
        self.heads = heads_of(heads)
        width = output_width(self.heads)
        if output_layer is None and width:
            for model in self._models:
                output_layer = find_output_layer(model, width) or output_layer
        self._output_layer = output_layer
        self.parts: list[Part] = parts_of(self._models, self.heads, output_layer, groups)
        self._ids = {id(part.parameter) for part in self.parts}
        self._on_nonfinite = on_nonfinite
        self._recorder: Recorder = NoRecorder() if recorder is None else recorder
        self._finds_updates = finds_updates
        self._is_closed = False
        self._repeater = repeater
        self._hooks_steps = hooks_steps
        self._explainer = Explainer(
            self._models, self.parts, self.heads, replay, self._optimizers, inputs, repeater
        )
        self._parameters: list[Tensor] = [part.parameter for part in self.parts]
        device = self._parameters[0].device if self._parameters else torch.device("cpu")
        if when == "auto":
            when = "update" if device.type != "cpu" and on_nonfinite == "report" else "step"
        if sum(head.columns is not None for head in self.heads) == 1:
            width = 1  # a vocabulary is noted as a whole
        self._flags = DeviceFlags(width, len(self.parts), device) if when == "update" else None
        self.troubles: list[Trouble] = []
        self.failures = 0
        self.last_failure = ""
        self._record = UpdateRecord(first_update)
        self._held = HeldMinibatch()
        # States of the generator after the last steps, the newest first.
        self._rngs = deque([torch.get_rng_state()], maxlen=_STEPS_OF_A_LOOP)
        self._last_optimizer: torch.optim.Optimizer | None = None
        self._has_acted = False  # since the last minibatch
        self._acts = False  # at any time
        self._is_broken = False  # weights are not finite any more: the rest is consequence
        self._put_aside: list[tuple[Tensor, Tensor | None]] = []
        self._first_step_at = 0.0
        self._weights: Tensor | None = None
        self._still_for = 0
        self._is_paused = False
        self._start: StartState | None = None
        self._is_updating = False
        self._updating_since = 0.0
        self._acting_is_explained = False  # in this update
        self._handles: list[Any] = []
        self._clip: ClipWatch | None = None
        self._scaler: ScalerWatch | None = None
        self._left_out = 0  # steps that a loss scaler left out
        self._hook()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end(error, traceback)

    def record_with(self, recorder: Recorder) -> None:
        """Report to a recorder from now on."""
        self._recorder = recorder

    def update(self, **figures: float) -> None:
        """End an update here, with figures of your own; from now on only this ends updates."""
        self._finds_updates = False
        self.log(**figures)
        self._guarded(self._end_update)

    def log(self, **figures: float) -> None:
        """Add figures to the current update; a later value of the same name replaces it."""
        self._record.figures.update({name: float(value) for name, value in figures.items()})

    @property
    def recorder(self) -> Recorder:
        """Where it reports."""
        return self._recorder

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Everything inside belongs to an update, also a call of the model without gradients."""
        self._updating_since = time.monotonic()
        self._is_updating = True
        if self._start is not None:
            self._guarded(self._start.take)
        try:
            yield
        finally:
            self._add_learning_time()
            self._is_updating = False

    def _add_learning_time(self) -> None:
        """Add the time since an update began, or since the last one ended within `updating`."""
        now = time.monotonic()
        spent = self._record.update_seconds or 0.0
        self._record.update_seconds = spent + now - self._updating_since
        self._updating_since = now

    def keep_start(self, limit: int) -> None:
        """Keep, from now on, the state that each update starts from (see `updating`).

        Args:
            limit: bytes above which it is not kept.
        """
        self._start = StartState(self._models, self._optimizers, limit)

    def start_of(self, trouble: Trouble, limit: int) -> dict[str, Any]:
        """Return the state before the update of an incident that was just found.

        Without a start that was kept, and while acting, it is the state as it is now.

        Args:
            trouble: the incident.
            limit: bytes above which nothing is returned.
        """
        if self._start is not None and trouble.phase == "update":
            return self._start.values
        now = StartState(self._models, self._optimizers, limit)
        now.take()
        return now.values

    @property
    def variables(self) -> Mapping[str, Tensor]:
        """The training loop's own tensors in an incident that was just found, by name."""
        return self._explainer.variables

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found in this update, and nothing lasting before."""
        return not self._record.troubles and not self._is_broken

    @property
    def has_stepped(self) -> bool:
        """Whether the optimizer was to take a step since the last update ended."""
        return self._record.steps > 0

    def hold(self, result: Tensor, owner: str = SHARED, quantity: str = "loss") -> None:
        """Look at a scalar of this minibatch, such as its loss, when the optimizer steps."""
        if self._flags is None and self._explainer.seen is None:
            self._held.results.append((owner, quantity, result.detach()))

    def before_step(self, optimizer: torch.optim.Optimizer, *, is_scaled: bool = False) -> None:
        """Report that an optimizer is about to step, where its hooks come at other times.

        Args:
            optimizer: the optimizer.
            is_scaled: whether a loss scaler leaves the step out if gradients are not finite.
        """
        if not self._is_closed and not self._is_paused:
            self._held.is_scaled = is_scaled
            self._before_step(optimizer)

    def after_step(self) -> None:
        """Report that the step is over, whether it was taken or not."""
        if not self._is_closed:
            self._after_step()

    def pause(self) -> None:
        """Take all hooks off, so that the model can be scripted or exported; see `resume`."""
        self._is_paused = True
        self._unhook()

    def resume(self) -> None:
        """Attach the hooks again after `pause`."""
        if self._is_paused:
            self._is_paused = False
            self._hook()

    def end(self, error: BaseException | None, traceback: TracebackType | None = None) -> None:
        """Close the watch after training ended with an exception, which is explained."""
        if error is None or self._is_closed:
            self.close()
        elif isinstance(error, NonfiniteHalt):
            self._close("halted", str(error))
        elif isinstance(error, KeyboardInterrupt):
            self._close("stopped", "interrupted")
        else:
            self._guarded(lambda: self._explain_exception(traceback or error.__traceback__))
            first_line = str(error).partition("\n")[0]
            self._close("failed", f"{type(error).__name__}: {first_line}".removesuffix(": "))

    def close(self) -> None:
        """End the last update and take all hooks off. May be called more than once."""
        self._close("finished", "")

    def _close(self, status: str, reason: str) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._record.steps or self._record.troubles or self._record.figures:
            self._guarded(self._end_update)
        self._unhook()
        self._guarded(lambda: self._recorder.ended(status, reason))

    def check(self, head: str, values: Any, quantity: str = "output", made_by: str = "") -> bool:
        """Look at values that no layer of the model computes, such as the rewards of one function.

        What is not finite is reported once per update.

        Args:
            head: the head that they belong to.
            values: a tensor, an array or a list of numbers.
            quantity: what they are.
            made_by: what computes them, such as a function with file and line, for the report.

        Returns:
            Whether all of them are finite.
        """
        return bool(
            self._guarded(lambda: self._check(head, values, quantity, made_by), default=True)
        )

    def _check(self, head: str, values: Any, quantity: str, made_by: str) -> bool:
        tensor = torch.as_tensor(values).detach()
        kinds = kinds_of(tensor) if tensor.is_floating_point() else ()
        known = {one for trouble in self._record.troubles for one in trouble.explanation.found}
        found = tuple(Found(head, quantity, kind) for kind in kinds)
        if not known.issuperset(found):
            reason = f"it comes from {made_by}" if made_by else "no layer of the model computes it"
            explanation = Explanation(found, why_no_origin=reason)
            if self._is_updating:
                self._note(explanation, self._record.steps, "update")
            else:
                self._note(explanation)
        return not kinds

    def _hook(self) -> None:
        if self._output_layer is not None:
            hook = OutputHook(self)
            self._handles.append(self._output_layer.register_forward_hook(hook))
        own = weakref.ref(self)

        def clipped(parameters: list[Tensor], norm: Tensor) -> None:
            if (watch := own()) is not None:
                watch._guarded(lambda: watch._before_clip(parameters, norm))

        def before(optimizer: torch.optim.Optimizer) -> None:
            if (watch := own()) is not None and watch._is_mine(optimizer):
                watch._before_step(optimizer)

        def after(optimizer: torch.optim.Optimizer) -> None:
            if (watch := own()) is not None and watch._is_mine(optimizer):
                watch._after_step()

        def left_out(optimizer: torch.optim.Optimizer) -> None:
            watch = own()
            if watch is not None and watch._is_mine(optimizer):
                frame = sys._getframe(1)
                watch._guarded(lambda: watch._left_out_by_scaler(optimizer, frame))

        self._clip = ClipWatch(clipped)
        self._scaler = ScalerWatch(left_out)
        if self._hooks_steps:
            self._handles += hook_steps(self._optimizers, before, after)

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._clip is not None:
            self._clip.close()
            self._clip = None
        if self._scaler is not None:
            self._scaler.close()
            self._scaler = None

    def _is_mine(self, optimizer: torch.optim.Optimizer) -> bool:
        groups = optimizer.param_groups
        return any(id(p) in self._ids for group in groups for p in group["params"][:1])

    def on_output(self, _module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Take note of one call of the output layer."""
        if not isinstance(output, Tensor):
            return
        if self._explainer.seen is not None:
            self._explainer.saw_again(_first(inputs), output)
            return
        if torch.compiler.is_compiling():
            return
        self._guarded(lambda: self._saw_output(_first(inputs), output))

    def _saw_output(self, taken: Tensor | None, output: Tensor) -> None:
        is_training = output.requires_grad
        if is_training or self._is_updating:
            if self._has_acted and self._finds_updates:
                self._end_update_if_any()
                self._has_acted = False
        else:
            self._has_acted = self._acts = True
        if self._flags is not None:
            self._flags.note_output(output, self._record.steps + 1)
            return
        if not is_training and self._acting_is_explained:
            return
        # A sum of finite values may overflow: it is only a reason to look.
        total = output.detach().sum(dtype=torch.float64 if output.dtype == torch.float64 else _SUM)
        if is_training and self._repeater is not None:
            own = [head for head in self.heads if head.columns is not None]
            owner = own[0].name if len(own) == 1 else SHARED
            quantity = OUTPUT_QUANTITIES.get(own[0].kind, "output") if own else "output"
            self.hold(total, owner, quantity)
            return
        if math.isfinite(total.item()) or self._held.is_explained:
            return
        if bool(output.detach().isfinite().all()):
            return
        phase = "update" if is_training or self._is_updating else "acting"
        stack = [] if self._repeater is not None else list(frames_calling(sys._getframe(1)))
        self._explain(stack, phase, [(taken, output)])

    def _before_clip(self, parameters: list[Tensor], norm: Tensor) -> None:
        if self._explainer.seen is not None or not any(id(p) in self._ids for p in parameters):
            return
        if self._flags is not None:
            self._note_gradients()
            return
        self._held.norms[id(parameters[0])] = norm
        self._held.clipped.update(map(id, parameters))
        if not math.isfinite(norm.item()):
            self._held.gradients = [
                None if part.parameter.grad is None else part.parameter.grad.detach().clone()
                for part in self.parts
            ]

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._explainer.seen is not None:
            return
        frame = sys._getframe(1)
        is_bad = self._guarded(lambda: self._look_at_step(optimizer, frame))
        if not is_bad:
            return
        if self._on_nonfinite == "halt":
            error = NonfiniteHalt(3)
            self.end(error)
            raise error
        if self._on_nonfinite == "skip":
            self._record.skipped += 1
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    self._put_aside.append((parameter, parameter.grad))
                    parameter.grad = None  # optimizers leave a parameter without gradient alone

    def _look_at_step(self, optimizer: torch.optim.Optimizer, frame: FrameType) -> bool:
        """Return whether this step would be made with something that is not finite."""
        record = self._record
        record.steps += 1
        if record.steps == 1:
            self._first_step_at = time.monotonic()
        self._last_optimizer = optimizer
        if self._flags is not None:
            if not self._held.norms:
                self._note_gradients()
            return False
        value = self._held.norm_of(optimizer)
        if value is not None and math.isfinite(value):
            record.norm_sum += value
            record.norms += 1
            record.norm_max = max(record.norm_max, value)
        is_bad = value is not None and not math.isfinite(value)
        bad_results = self._held.bad_results()
        if is_bad and not bad_results and self._is_skipped_by_scaler(optimizer):
            self._guarded(lambda: self._look_at_left_out(optimizer, frame))
            return False
        if not is_bad and not bad_results:
            return False
        stack = list(frames_calling(frame))
        # If it cannot be explained, the step is bad all the same.
        if self._repeater is not None:
            self._guarded(lambda: self._explain_held(optimizer, bad_results))
            return is_bad
        is_norm_only = self._is_overflow_of_norm()
        if not self._held.is_explained:
            self._guarded(
                lambda: self._explain(stack, "update", [], optimizer, only_if_found=is_norm_only)
            )
        return not is_norm_only

    def _is_skipped_by_scaler(self, optimizer: torch.optim.Optimizer) -> bool:
        """Return whether a loss scaler leaves a step out whose gradients are not finite."""
        if self._held.is_scaled:
            self._record.skipped += 1
            return True
        found = getattr(optimizer, "found_inf", None)
        return isinstance(found, Tensor) and bool(found.any())

    def _is_overflow_of_norm(self) -> bool:
        """Return whether only the norm overflowed, while each gradient is finite."""
        gradients = self._held.gradients or [part.parameter.grad for part in self.parts]
        held = [one for one in gradients if one is not None]
        return bool(held) and all(bool(one.isfinite().all()) for one in held)

    def _left_out_by_scaler(self, optimizer: torch.optim.Optimizer, frame: FrameType) -> None:
        self._look_at_left_out(optimizer, frame)
        self._begin_minibatch()

    def _look_at_left_out(self, optimizer: torch.optim.Optimizer, frame: FrameType) -> None:
        """Look at a step that a loss scaler leaves out: it hides a NaN like its own overflows."""
        self._left_out += 1
        is_looked_at = self._left_out <= _LEFT_OUT or self._left_out.bit_count() == 1
        is_known = self._held.is_explained or self._flags is not None or self._repeater is not None
        if is_looked_at and not is_known:
            stack = list(frames_calling(frame))
            self._explain(stack, "update", [], optimizer, only_if_harmful=True)

    def _note_gradients(self) -> None:
        """Add the gradients of this step to the flags on the device."""
        assert self._flags is not None
        zero = torch.zeros((), device=self.parts[0].parameter.device)
        norms = iter(torch._foreach_norm([p.grad for p in self._parameters if p.grad is not None]))
        stacked = [next(norms) if p.grad is not None else zero for p in self._parameters]
        norms_of_parts = torch.stack([norm.float() for norm in stacked])
        self._held.norms[0] = norms_of_parts
        self._flags.note_gradients(norms_of_parts, self._record.steps + 1)

    def _after_step(self) -> None:
        if self._explainer.seen is not None:
            return
        for parameter, gradient in self._put_aside:
            parameter.grad = gradient
        self._put_aside.clear()
        self._begin_minibatch()
        if not self._finds_updates or self._acts:
            return  # an update ends where acting ends
        if time.monotonic() - self._first_step_at > _UPDATE_SECONDS:
            self._guarded(self._end_update)

    def _begin_minibatch(self) -> None:
        self._forget_minibatch()
        self._rngs.appendleft(torch.get_rng_state())

    def _explain(
        self,
        stack: list[FrameType],
        phase: str,
        outputs: list[tuple[Tensor | None, Tensor]],
        optimizer: torch.optim.Optimizer | None = None,
        *,
        only_if_found: bool = False,
        only_if_harmful: bool = False,
    ) -> None:
        """Find out what broke, and report it unless it is consequence only."""
        self._held.is_explained = phase == "update"
        if self._is_broken or (phase == "acting" and self._acting_is_explained):
            return
        self._acting_is_explained |= phase == "acting"
        gradients = self._held.gradients or [part.parameter.grad for part in self.parts]
        explanation = self._explainer.explain(
            stack,
            phase,
            Minibatch(outputs, gradients, tuple(self._rngs), tuple(self._held.norms.values())),
            optimizer,
        )
        if only_if_found and not explanation.found:
            return  # an exception that has nothing to do with non-finite values
        if only_if_harmful and not explanation.is_reproduced:
            return  # the loss scale was too high: ordinary
        self._report(explanation, phase, optimizer)

    def _explain_held(
        self, optimizer: torch.optim.Optimizer | None, bad_results: tuple[Found, ...] = ()
    ) -> None:
        if self._held.is_explained or self._is_broken:
            return
        self._held.is_explained = True
        gradients = self._held.gradients or [part.parameter.grad for part in self.parts]
        explanation = self._explainer.explain_held(gradients, bad_results, optimizer)
        if explanation.found:  # a sum of finite values may overflow
            self._report(explanation, "update", optimizer)

    def _report(
        self, explanation: Explanation, phase: str, optimizer: torch.optim.Optimizer | None
    ) -> None:
        self._is_broken = _is_lasting(explanation.found)
        minibatch = self._record.steps + (optimizer is None) if phase == "update" else 0
        self._note(explanation, minibatch, phase)
        if self._on_nonfinite == "report" and phase == "update":
            self._is_broken = True  # the step is taken, and what follows is consequence

    def _note(self, explanation: Explanation, minibatch: int = 0, phase: str = "acting") -> None:
        trouble = Trouble(self._record.number, minibatch, phase, explanation)
        self.troubles.append(trouble)
        self._record.troubles.append(trouble)
        self._guarded(lambda: self._recorder.found(trouble))
        self._explainer.variables = {}

    def _explain_exception(self, traceback: TracebackType | None) -> None:
        if self._flags is not None and not self._is_broken:
            self._look_back(self._record)  # the first bad step, before its consequences
        if self._record.troubles or self._is_broken:
            return
        if self._repeater is not None:
            self._explain_held(None, self._held.bad_results())
            if self._record.troubles:
                return
        stack = frames_of_traceback(traceback)
        is_acting = self._has_acted and not self._is_updating
        self._explain(stack, "acting" if is_acting else "update", [], only_if_found=True)

    def _end_update_if_any(self) -> None:
        if self._record.steps:
            self._end_update()

    def _end_update(self) -> None:
        record = self._record
        if self._is_updating:
            self._add_learning_time()
        if self._last_optimizer is not None:
            record.learning_rate = float(self._last_optimizer.param_groups[0]["lr"])
        self._look_back(record)
        record.still_updates = self._still_for
        record.ended = time.monotonic()
        self._record = UpdateRecord(record.number + 1)
        self._updating_since = self._record.began
        self._forget_minibatch()
        self._acting_is_explained = False
        self._recorder.updated(record)

    def _forget_minibatch(self) -> None:
        self._held = HeldMinibatch()
        if self._repeater is not None:
            self._repeater.forget()

    def _look_back(self, record: UpdateRecord) -> None:
        """Read, once per update, the flags and whether weights and moments are finite."""
        with torch.no_grad():
            # A norm in half precision would hide small steps.
            is_half = any(one.dtype.itemsize < 4 for one in self._parameters)
            kind = torch.float32 if is_half else None
            sums = torch.stack(torch._foreach_norm(self._parameters, 2.0, dtype=kind))
            moments = [moment for _, moment in self._explainer.state().values()]
            norms = torch._foreach_norm(moments) if moments else ()
        before = self._weights
        same = sums.new_zeros((), dtype=torch.bool) if before is None else (sums == before).all()
        all_norms = [sums.float(), *(norm.float().to(sums.device).reshape(1) for norm in norms)]
        looked_at = torch.stack([torch.cat(all_norms).isfinite().all(), same])
        if self._flags is None:
            is_finite, is_same = looked_at.tolist()
        else:
            flags, (is_finite, is_same) = self._flags.read(looked_at)
            record.norm_sum, record.norm_max, record.norms = flags.norms
            if flags.first_step and not self._is_broken:
                self._is_broken = True
                found = found_in_flags(flags, self.heads, self.parts)
                self._note(Explanation(found, why_no_origin=FLAGS_ONLY), flags.first_step, "update")
        if not is_finite and not self._is_broken and (found := self._explainer.weights()):
            self._is_broken = True
            self._note(Explanation(found, why_no_origin=_WEIGHTS_ONLY), record.steps, "update")
        took_steps = record.steps > record.skipped
        self._still_for = self._still_for + 1 if took_steps and is_same else 0
        self._weights = sums

    @property
    def is_stalled(self) -> bool:
        """Whether no weight has moved for `STALLED_UPDATES` updates in which steps were taken."""
        return self._still_for >= STALLED_UPDATES

    def _guarded(self, work: Callable[[], Any], default: Any = None) -> Any:
        """Do some work of the watch; a failure of it is counted and never stops training."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - training continues
            self.failures += 1
            with suppress(Exception):
                self.last_failure = f"{type(error).__name__}: {error}"
                self._recorder.failed(self.failures, self.last_failure)
            return default


def _first(inputs: tuple[Any, ...]) -> Tensor | None:
    return inputs[0] if inputs and isinstance(inputs[0], Tensor) else None


def _is_lasting(found: Iterable[Found]) -> bool:
    return any(one.quantity in ("parameters", "moments") for one in found)
