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
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Final, Literal, Self

import torch
from torch import Tensor, nn

from esper.leyline.telemetry import STALLED_UPDATES
from esper.watching.explaining import (
    Explanation,
    Found,
    Minibatch,
    evidence_in,
    line_of,
    origin_in,
    run_again,
)
from esper.watching.frames import calling_frames, frames_of_traceback, named_tensors
from esper.watching.heads import find_output_layer, heads_of, output_width
from esper.watching.hooks import ClipWatch, OutputHook, gradient_norm, hook_steps
from esper.watching.parts import Part, kinds_of, parts_of
from esper.watching.recorder import NoRecorder, Recorder, Trouble, UpdateRecord
from esper.watching.rerun import CannotRunAgainError, StepReached

OnNonfinite = Literal["report", "skip", "halt"]
_FRAMES: Final = 5  # whose variables are read
_UPDATE_SECONDS: Final = 1.0  # length of an update where the loop shows no boundary


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
        runs_again: bool = True,
        finds_updates: bool = True,
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
        self._runs_again = runs_again
        self.troubles: list[Trouble] = []
        self.failures = 0
        self.last_failure = ""
        self._record = UpdateRecord(1)
        self._outputs: list[tuple[Tensor | None, Tensor]] = []
        self._norm: Tensor | None = None
        self._gradients: list[Tensor | None] | None = None  # before clipping, when the norm broke
        self._has_acted = False
        self._is_broken = False  # weights are not finite any more: the rest is consequence
        self._is_explained = False  # this minibatch
        self._again: list[Tensor] | None = None  # what a second run makes, during one
        self._put_aside: list[tuple[Tensor, Tensor | None]] = []
        self._weights: Tensor | None = None
        self._still_for = 0
        self._is_paused = False
        self._handles: list[Any] = []
        self._clip: ClipWatch | None = None
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
        """End an update here, with figures of your own."""
        self.log(**figures)
        self._guarded(self._end_update)

    def log(self, **figures: float) -> None:
        """Add figures to the current update; a later value of the same name replaces it."""
        self._record.figures.update({name: float(value) for name, value in figures.items()})

    @property
    def has_stepped(self) -> bool:
        """Whether the optimizer was to take a step since the last update ended."""
        return self._record.steps > 0

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
        if error is None:
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

    def check(self, head: str, values: Any, quantity: str = "output") -> bool:
        """Look at values that no layer of the model computes, such as the rewards of one function.

        Args:
            head: the head that they belong to.
            values: a tensor, an array or a list of numbers.
            quantity: what they are.

        Returns:
            Whether all of them are finite.
        """
        return bool(self._guarded(lambda: self._check(head, values, quantity), default=True))

    def _check(self, head: str, values: Any, quantity: str) -> bool:
        tensor = torch.as_tensor(values).detach()
        kinds = kinds_of(tensor) if tensor.is_floating_point() else ()
        if kinds:
            found = tuple(Found(head, quantity, kind) for kind in kinds)
            self._note(Explanation(found, why_no_origin="no layer of the model computes it"))
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

        self._clip = ClipWatch(clipped)
        self._handles += hook_steps(self._optimizers, before, after)

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._clip is not None:
            self._clip.close()
            self._clip = None

    def _is_mine(self, optimizer: torch.optim.Optimizer) -> bool:
        groups = optimizer.param_groups
        return any(id(p) in self._ids for group in groups for p in group["params"][:1])

    def on_output(self, _module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Take note of one call of the output layer."""
        if not isinstance(output, Tensor):
            return
        if self._again is not None:
            self._again.append(output)
            return
        if torch.compiler.is_compiling():
            return
        taken = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
        self._guarded(lambda: self._saw_output(taken, output))

    def _saw_output(self, taken: Tensor | None, output: Tensor) -> None:
        is_training = output.requires_grad
        if is_training:
            if self._has_acted and self._finds_updates:
                self._end_update_if_any()
                self._has_acted = False
            self._outputs.append((taken, output))
        else:
            self._has_acted = True
        # A sum of finite values may overflow: it is only a reason to look.
        if math.isfinite(output.detach().sum().item()) or self._is_explained:
            return
        if bool(output.detach().isfinite().all()):
            return
        frames = list(calling_frames(sys._getframe(1)))
        outputs = [(taken, output)]
        self._explain(frames, "update" if is_training else "acting", outputs)

    def _before_clip(self, parameters: list[Tensor], norm: Tensor) -> None:
        if self._again is not None or not any(id(p) in self._ids for p in parameters):
            return
        self._norm = norm
        if not math.isfinite(norm.item()):
            self._gradients = [
                None if part.parameter.grad is None else part.parameter.grad.detach().clone()
                for part in self.parts
            ]

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._again is not None:
            self._again += [
                parameter.grad
                for group in optimizer.param_groups
                for parameter in group["params"]
                if parameter.grad is not None
            ]
            raise StepReached
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
        record.learning_rate = float(optimizer.param_groups[0]["lr"])
        norm = self._norm
        if norm is None:
            gradients = [
                parameter.grad
                for group in optimizer.param_groups
                for parameter in group["params"]
                if parameter.grad is not None
            ]
            if not gradients:
                return False
            norm = gradient_norm(gradients)
        value = norm.item()
        if math.isfinite(value):
            record.norm_sum += value
            record.norms += 1
            record.norm_max = max(record.norm_max, value)
            return False
        skipped_by_scaler = getattr(optimizer, "found_inf", None)
        if isinstance(skipped_by_scaler, Tensor) and bool(skipped_by_scaler.any()):
            return False  # the loss scale was too high: ordinary
        if not self._is_explained:
            self._explain(list(calling_frames(frame)), "update", self._outputs, optimizer)
        return True

    def _after_step(self) -> None:
        for parameter, gradient in self._put_aside:
            parameter.grad = gradient
        self._put_aside.clear()
        self._forget_minibatch()
        if not self._finds_updates or self._has_acted:
            return
        if time.monotonic() - self._record.began > _UPDATE_SECONDS:
            self._guarded(self._end_update)

    def _forget_minibatch(self) -> None:
        self._outputs.clear()
        self._norm = None
        self._gradients = None
        self._is_explained = False

    def _explain(
        self,
        frames: list[FrameType],
        phase: str,
        outputs: list[tuple[Tensor | None, Tensor]],
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        """Find out what broke, and add it to the record unless it is consequence only."""
        self._is_explained = phase == "update"
        if self._is_broken:
            return
        gradients = self._gradients or [part.parameter.grad for part in self.parts]
        variables: dict[str, Tensor] = {}
        for frame in frames[_FRAMES::-1]:  # the loop's own before those that it calls
            for name, tensor in named_tensors(frame).items():
                variables.setdefault(name, tensor)
        state = self._optimizer_state(optimizer)
        if optimizer is None:
            gradients = [None for _ in self.parts]
        found = evidence_in(self.parts, self.heads, Minibatch(outputs, gradients), variables, state)
        self._is_broken = any(one.quantity in ("parameters", "moments") for one in found)
        explanation = self._with_origin(frames, found, variables, phase)
        minibatch = self._record.steps + (optimizer is None) if phase == "update" else 0
        self._note(explanation, minibatch, phase)
        if self._on_nonfinite == "report" and phase == "update":
            self._is_broken = True  # the step is taken, and what follows is consequence

    def _note(self, explanation: Explanation, minibatch: int = 0, phase: str = "acting") -> None:
        trouble = Trouble(self._record.number, minibatch, phase, explanation)
        self.troubles.append(trouble)
        self._record.troubles.append(trouble)
        self._guarded(lambda: self._recorder.found(trouble))

    def _with_origin(
        self,
        frames: list[FrameType],
        found: tuple[Found, ...],
        variables: Mapping[str, Tensor],
        phase: str,
    ) -> Explanation:
        if not self._runs_again or phase != "update":
            return Explanation(found, why_no_origin="only what trains is run again")
        named = {f"weight {part.name}": part.parameter.detach() for part in self.parts}
        named |= {f"variable {name}": tensor for name, tensor in variables.items()}
        seen: list[Tensor] = []
        self._again = seen
        try:
            tracer = run_again(frames, self._models, named)
            bad = [tensor for tensor in seen if not bool(tensor.detach().isfinite().all())]
            origin = origin_in(tracer, bad)
        except CannotRunAgainError as error:
            return Explanation(found, why_no_origin=str(error))
        finally:
            self._again = None
        if origin is None:
            return Explanation(found, why_no_origin="its second run was finite")
        return Explanation(found, origin, line_of(origin.operation))

    def _explain_exception(self, traceback: TracebackType | None) -> None:
        if self._record.troubles or self._is_broken:
            return
        frames = frames_of_traceback(traceback)
        self._explain(frames, "acting" if self._has_acted else "update", self._outputs)

    def _optimizer_state(
        self, optimizer: torch.optim.Optimizer | None
    ) -> dict[str, tuple[Part, Tensor]]:
        of_parameter = {id(part.parameter): part for part in self.parts}
        if optimizer is None:
            return {}
        return {
            f"{name} of {of_parameter[id(parameter)].name}": (of_parameter[id(parameter)], value)
            for parameter, state in optimizer.state.items()
            if id(parameter) in of_parameter
            for name, value in state.items()
            if isinstance(value, Tensor) and value.shape == parameter.shape
        }

    def _end_update_if_any(self) -> None:
        if self._record.steps:
            self._end_update()

    def _end_update(self) -> None:
        record = self._record
        self._look_at_weights(record)
        record.still_updates = self._still_for
        record.ended = time.monotonic()
        self._record = UpdateRecord(record.number + 1)
        self._forget_minibatch()
        self._recorder.updated(record)

    def _look_at_weights(self, record: UpdateRecord) -> None:
        """Look once per update whether weights are finite, and whether they moved at all."""
        with torch.no_grad():
            sums = torch.stack(torch._foreach_norm([p.parameter for p in self.parts], 2.0))
        if not bool(sums.isfinite().all()) and not self._is_broken:
            found = evidence_in(
                self.parts, self.heads, Minibatch((), [None for _ in self.parts]), {}, {}
            )
            if found:
                self._is_broken = True
                self._note(Explanation(found), record.steps, "update")
        took_steps = record.steps > record.skipped
        is_same = self._weights is not None and torch.equal(sums, self._weights)
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
            return default
