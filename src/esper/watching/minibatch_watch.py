"""Checks of each minibatch: outputs, gradient norms and the optimizer's step."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any, Final

import torch
from torch import Tensor, nn

from esper.leyline.telemetry import SHARED
from esper.leyline.text.sighting_words import nonfinite_kind
from esper.watching.agreement import Reaction
from esper.watching.checks.device_flags import DeviceFlags, ReadFlags
from esper.watching.checks.held import HeldMinibatch, PutAside
from esper.watching.checks.looks import is_finite
from esper.watching.checks.owner_norms import OwnerNorms
from esper.watching.checks.std_look import StdLook
from esper.watching.finding.explainer import Explainer
from esper.watching.finding.repeating.repeater import Repeater
from esper.watching.finding.self_masking import LayerCall, SelfMasking
from esper.watching.guard import Guard
from esper.watching.hooking import backward_pass
from esper.watching.hooking.closures import ClosureSteps
from esper.watching.hooking.hooks import OwnOptimizers
from esper.watching.hooking.starts import Starts
from esper.watching.incidents import Incidents
from esper.watching.model.heads import OUTPUT_QUANTITIES, Head
from esper.watching.model.parts import Part
from esper.watching.model.shards import local
from esper.watching.model.step_arguments import Closure
from esper.watching.recorder import UpdateRecord

_SUM: Final = torch.float32  # type of the sum of an output; a sum in half precision overflows
_LEFT_OUT: Final = 64  # number of steps skipped by a loss scaler that are checked


class MinibatchWatch:
    """Checks each minibatch, and reports non-finite values to `incidents`; called by the hooks.

    Args:
        parts: all parameters.
        heads: the models' heads.
        optimizers: the optimizers given by the user; others are recognised by their parameters.
        explainer: the explainer, whose repetitions of a minibatch are not checked.
        incidents: explains and reports findings.
        guard: the watch's guard.
        flags: flags on the device that are read at the end of the update; None: check immediately.
        repeater: repeats minibatches instead of the loop; None: the loop is repeated.
        record: record of the first update.
        reaction: reaction to non-finite values, in a step or while acting.
        end_update: ends an update.
        finds_updates: whether an update ends when acting begins, or after a second without acting.
        has_optimizer: whether an optimizer is known. If not, each backward pass counts as a step
            until one steps.
        counts_updates: whether updates without acting end after a number of steps instead of a
            second, which makes them the same in all ranks.

    Attributes:
        record: record of the current update.
        held: values held of the current minibatch.
        has_acted: whether the model acted since the last minibatch.
        is_updating: whether all calls currently belong to an update.
        last_optimizer: the optimizer of the last step; None before.
        std: check of standard deviations while acting.
        owner_norms: gradient norms of heads and groups in the current update.
        is_mine: returns whether an optimizer trains what is watched.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        heads: Sequence[Head],
        optimizers: Sequence[torch.optim.Optimizer],
        explainer: Explainer,
        incidents: Incidents,
        guard: Guard,
        flags: DeviceFlags | None,
        repeater: Repeater | None,
        record: UpdateRecord,
        *,
        reaction: Reaction,
        end_update: Callable[[], None],
        finds_updates: bool,
        has_optimizer: bool,
        counts_updates: bool = False,
    ) -> None:
        self._parts = parts
        self._parameters: list[Tensor] = [part.parameter for part in parts]
        self._ids = set(map(id, self._parameters))
        self._heads = heads
        self.is_mine = OwnOptimizers(optimizers, self._ids).has
        self.std = StdLook(parts)
        self._masking = SelfMasking()
        self._explainer = explainer
        self._incidents = incidents
        self._guard = guard
        self._flags = flags
        self._repeater = repeater
        self._reaction = reaction
        self._end_update = end_update
        self.finds_updates = finds_updates
        self._counts_updates = counts_updates
        self.has_optimizer = has_optimizer
        self._no_optimizer = backward_pass.no_optimizer(self._parameters)
        self._own_losses = backward_pass.OwnLosses(self._ids)
        self._in_backward = backward_pass.StepsInBackward()
        self._loss_told = 0  # number of the update in which a loss alone was explained last
        self.record = record
        self.held = HeldMinibatch()
        self.has_acted = False
        self.is_updating = False
        self.last_optimizer: torch.optim.Optimizer | None = None
        self._starts = Starts(guard, is_alone=len(optimizers) == 1)
        self._acts = False  # whether the model has ever acted
        self._is_learning = False  # a minibatch was computed, but there was no step yet
        self.owner_norms = OwnerNorms(parts)
        self._put_aside = PutAside()
        is_kept = reaction.changes_steps
        self._closures = ClosureSteps(self._look_in_closure, guard, is_kept=is_kept)
        self._began = time.monotonic()  # start of the minibatch
        self._left_out = 0  # number of steps that a loss scaler skipped

    def hold(self, result: Tensor, owner: str, quantity: str) -> None:
        """Check a scalar of this minibatch, such as its loss, at the optimizer's step."""
        if self._flags is None and self._explainer.seen is None:
            self.held.results.append((owner, quantity, result.detach()))

    def on_output(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Handle one call of the output layer."""
        if not isinstance(output, Tensor):
            return
        call = partial(LayerCall, module, args, kwargs, output)
        if self._explainer.seen is not None:
            self._explainer.saw_again(call().taken, output)
        elif not torch.compiler.is_compiling():
            with self._guard:
                self._saw_output(output, call)

    def _saw_output(self, output: Tensor, call: Callable[[], LayerCall]) -> None:
        is_training = output.requires_grad
        self._note_call(is_training)
        if self._flags is not None:
            self._flags.note_output(output, self.record.minibatch)
            self._masking.hold(call())
            if self.std.overflows and not is_training and not self.is_updating:
                self.std.overflows = False
                stack = self._closures.frames_calling(sys._getframe(1))
                outputs = [(call().taken, output)]
                self._explain(stack, "acting", outputs=outputs, only_if_found=True)
            return
        if not is_training and self._incidents.acting_is_explained:
            return
        values = output.detach()
        # A sum of finite values may overflow, so a non-finite sum only triggers the full check.
        total = values.sum(dtype=None if values.dtype.itemsize >= 4 else _SUM)
        if is_training and self._repeater is not None:
            own = [head for head in self._heads if head.columns is not None]
            owner = own[0].name if len(own) == 1 else SHARED
            quantity = OUTPUT_QUANTITIES.get(own[0].kind, "output") if own else "output"
            self.hold(total, owner, quantity)
            return
        phase = "update" if is_training or self.is_updating else "acting"
        is_bad = not math.isfinite(total.item()) and not bool(values.isfinite().all())
        is_bad = is_bad and not self._masking.is_masked(call())
        has_infinite_std = phase == "acting" and self.std.has_infinite(self.record.number)
        if self.held.is_explained or not (is_bad or has_infinite_std):
            return
        frame = sys._getframe(1)
        stack = [] if self._repeater is not None else self._closures.frames_calling(frame)
        outputs = [(call().taken, output)]
        before = len(self.record.troubles)
        self._explain(stack, phase, outputs=outputs, only_if_found=not is_bad)
        if len(self.record.troubles) > before:
            self._reaction.to_output()

    def _note_call(self, is_training: bool) -> None:
        """Distinguish acting from learning; an update begins with acting and ends with steps."""
        if is_training:
            if self.has_acted and self._is_learning:
                self._end_found_update()  # the previous minibatch had no step
            self._is_learning, self.has_acted = True, False
        elif not self.is_updating:
            self.has_acted = self._starts.rngs.has_acted = True
            if not self._is_learning:  # otherwise the call is part of the minibatch
                self._acts = True
                self._end_found_update()

    def _end_found_update(self) -> None:
        if self.finds_updates and self.record.steps:
            self._end_update()

    def on_clip(self, parameters: list[Tensor], norm: Tensor) -> None:
        """Handle the norm of some gradients before they are clipped."""
        if self._explainer.seen is not None or self._ids.isdisjoint(map(id, parameters)):
            return
        with self._guard:
            if not self.record.steps and not backward_pass.is_inside_backward():
                self.owner_norms.measure()
            if self._flags is not None:
                self._note_gradients()
                return
            self.held.hold_norm(parameters, local(norm), self._parts)

    def on_backward(self, tensors: Any) -> None:
        """Check the loss at the end of a backward pass.

        Without an optimizer, the pass also counts as a step: nothing else ends a minibatch.
        """
        frame = sys._getframe(1)
        if torch.compiler.is_compiling():
            return
        if self._in_backward.is_open and self._explainer.seen is None:
            with self._guard:
                self._end_steps_in_backward(tensors, frame)
            return
        if self._repeater is not None:
            return
        self.held.stepped_loss = ""
        is_bad = is_step = False
        with self._guard:
            for loss in backward_pass.losses_in(tensors):
                self._saw_loss(loss, frame)
            is_alone = not self.has_optimizer and self._explainer.seen is None
            is_step = is_alone and self._own_losses.has_any(tensors)
            if is_step:
                self._count_step(self._no_optimizer)
                is_bad = self._look_at_step(self._no_optimizer, frame)
                last = self.record.troubles[-1:]  # a scaled loss may overflow without an incident
                is_bad = is_bad and any(one.minibatch == self.record.steps for one in last)
                self.on_step_over()
        if is_step and self._reaction.is_bad(is_bad):
            self._reaction.to_step(None)

    def _end_steps_in_backward(self, tensors: Any, frame: FrameType) -> None:
        """End the minibatch of a backward pass whose hooks took the steps."""
        if self._repeater is None:
            for loss in backward_pass.losses_in(tensors):
                self._saw_loss(loss, frame)
            if self.held.bad_loss and self.last_optimizer is not None:
                self._explain_loss(self.last_optimizer, frame)
        self._in_backward.end(self.record, self._flags)
        self.on_step_over()
        self.held.stepped_loss = ""

    def _saw_loss(self, loss: Tensor, frame: FrameType) -> None:
        if self._explainer.seen is not None:
            if not is_finite(loss) and self._own_losses.has_exactly(loss):
                self._explainer.seen.append(loss.detach())
        elif self._flags is not None:
            if self._own_losses.has(loss, frame):
                self._flags.hold_loss(loss, self.record.minibatch)
        elif not math.isfinite(
            value := local(loss.detach()).item()
        ) and self._own_losses.has_exactly(loss):
            self.held.bad_loss = self.held.bad_loss or nonfinite_kind(value) or ""

    def on_step(
        self, optimizer: torch.optim.Optimizer, closure: Closure | None = None
    ) -> Closure | None:
        """Handle the start of an optimizer step; return the function to call as its closure."""
        frame = sys._getframe(1)
        # A step inside another step is that of a wrapped optimizer.
        if self._explainer.seen is not None or self._closures.is_inside(frame):
            return closure
        if self._in_backward.is_first(self._begin_minibatch):
            self._count_step(optimizer)
        if closure is not None:
            closure = self._closures.begin(optimizer, closure)
        if closure is None or self._closures.has_new_gradients():
            self._look_and_react(optimizer, frame)
        return closure

    def _look_in_closure(self, optimizer: torch.optim.Optimizer, frame: FrameType) -> None:
        """Check the gradients that a closure computed, before its optimizer uses them."""
        if self._explainer.seen is None:
            self._look_and_react(optimizer, frame)
            self.held.forget_gradients()

    def _look_and_react(self, optimizer: torch.optim.Optimizer, frame: FrameType) -> None:
        is_bad = False
        with self._guard:
            is_bad = self._look_at_step(optimizer, frame)
        if self._reaction.is_bad(is_bad):
            self._closures.put_back()
            self._reaction.to_step(partial(self.leave_out, optimizer))

    def leave_out(self, optimizer: torch.optim.Optimizer, ranks: Sequence[int] = ()) -> None:
        """Make the next step of an optimizer change nothing; restore its gradients afterwards.

        Args:
            optimizer: the optimizer.
            ranks: other ranks whose non-finite values are the reason.
        """
        self.record.blamed_ranks.update(ranks)
        if not self.held.is_left_out:
            self.held.is_left_out = True
            self.record.skipped += 1
            self.record.left_out += 1
        self._put_aside.take(optimizer)
        self._closures.leave_out()

    def _count_step(self, optimizer: torch.optim.Optimizer) -> None:
        record = self.record
        if optimizer is not self._no_optimizer:
            self.last_optimizer = optimizer
            if not self.has_optimizer:  # earlier backward passes were not steps
                self.has_optimizer = True
                record.forget_steps()
        record.begin_step()
        self._reaction.begin_step()

    def _look_at_step(self, optimizer: torch.optim.Optimizer, frame: FrameType) -> bool:
        """Return whether this step would use a non-finite value."""
        record = self.record
        if record.steps == 1:
            if self._in_backward.is_open:
                self.owner_norms.add(optimizer.param_groups)
            self.owner_norms.measure()
        if self._flags is not None:
            if not self.held.is_noted:
                self._note_gradients()
            return False
        held = self.held
        value = held.norm_of(optimizer)
        is_bad = value is not None and not math.isfinite(value)
        if value is not None and not is_bad:
            (self._in_backward.hold_norm if self._in_backward.is_open else record.add_norm)(value)
        bad_results = held.bad_results() if held.results else ()
        if not is_bad and not bad_results:
            if held.bad_loss:
                self._explain_loss(optimizer, frame)
            return bool(held.bad_loss or held.stepped_loss)
        if is_bad and not bad_results and held.is_skipped_by_scaler(optimizer):
            record.skipped += 1
            with self._guard:
                self._look_at_left_out(optimizer, frame)
            return False
        if self._repeater is not None:
            self._explainer.apart.minibatch_seconds = time.monotonic() - self._began
            with self._guard:
                self._incidents.explain_held(record, held, bad_results, optimizer)
            return True
        is_norm_only = held.has_finite_gradients(self._parts, optimizer)
        with self._guard:  # the step is bad even if it cannot be explained
            if not held.is_explained:
                stack = self._closures.frames_calling(frame)
                # Gradients of a scaled loss may overflow before the scaler skips their step.
                may_be_scaled = optimizer is self._no_optimizer and held.bad_loss != "nan"
                self._explain(
                    stack,
                    "update",
                    optimizer=optimizer,
                    only_if_found=is_norm_only,
                    only_if_harmful=may_be_scaled,
                )
        return not is_norm_only

    def _explain_loss(self, optimizer: torch.optim.Optimizer, frame: FrameType) -> None:
        """Explain, once per update, a non-finite loss whose gradients are finite."""
        if self._loss_told != self.record.number and not self.held.is_explained:
            self._loss_told = self.record.number
            stack = self._closures.frames_calling(frame)
            with self._guard:
                self._explain(stack, "update", optimizer=optimizer, is_harmless=True)

    def on_left_out(self, optimizer: torch.optim.Optimizer, frame: FrameType) -> None:
        """Handle a step that a loss scaler skipped."""
        if self._explainer.seen is not None:
            return
        with self._guard:
            self._count_step(optimizer)
            self.record.skipped += 1
            self._look_at_left_out(optimizer, frame)
        self.on_step_over()

    def _look_at_left_out(self, optimizer: torch.optim.Optimizer, frame: FrameType) -> None:
        """Check a step that a loss scaler skipped: it may be a real NaN, not a scale overflow."""
        self._left_out += 1
        is_looked_at = self._left_out <= _LEFT_OUT or self._left_out.bit_count() == 1
        is_known = self.held.is_explained or self._flags is not None or self._repeater is not None
        if is_looked_at and not is_known:
            stack = self._closures.frames_calling(frame)
            known = {"optimizer": optimizer, "is_harmless": True}  # the step is not taken
            # A large loss scale makes a loss infinite at most.
            self._explain(stack, "update", only_if_harmful=self.held.bad_loss != "nan", **known)

    def read_flags(self, more: Tensor) -> tuple[ReadFlags, list[float]]:
        """Read the flags of the ending update, and further numbers; see `DeviceFlags.read`."""
        assert self._flags is not None
        flags, further = self._flags.read(more)
        return self._masking.without_masks(flags), further

    def _note_gradients(self) -> None:
        """Add the gradients of this step to the flags on the device."""
        assert self._flags is not None
        if self._in_backward.is_open:
            self._flags.hold_gradients(self._parameters)
        else:
            self._flags.note_gradients(self._parameters, self.record.minibatch)
            self.held.is_noted = True

    def on_step_over(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Handle the end of a step of an optimizer; None: of the current one."""
        if self._explainer.seen is not None or self._closures.is_open_for_other(optimizer):
            return
        self._put_aside.put_back()
        self._closures.end()
        if self._in_backward.is_open:  # the minibatch ends with the backward pass
            self.held.forget_gradients()
            self.held.had_finite_gradients |= not self.held.is_explained
            return
        self.record.is_stepping = False
        self._begin_minibatch()
        if not self.finds_updates or self._acts:
            return  # an update ends when acting begins
        if self.record.is_long(counts_steps=self._counts_updates):
            with self._guard:
                self._end_update()

    def _begin_minibatch(self) -> None:
        self.forget_minibatch()
        self._is_learning, self.std.calls = False, 0  # weights may have changed
        self._began = time.monotonic()
        self._starts.step_over(is_first=self.record.steps == 1 and self._flags is None)

    def _explain(self, stack: list[FrameType], phase: str, **details: Any) -> None:
        self._explainer.apart.minibatch_seconds = time.monotonic() - self._began
        details |= {**self._starts.states(), "closure_rng": self._closures.generator}
        self._incidents.explain(self.record, self.held, stack, phase, **details)

    def explain_exception(self, stack: list[FrameType]) -> None:
        """Explain an exception that ended training from the frames of its traceback."""
        if self._repeater is not None:
            self._incidents.explain_held(self.record, self.held, self.held.bad_results(), None)
            if self.record.troubles:
                return
        is_acting = self.has_acted and not self.is_updating
        self._explain(stack, "acting" if is_acting else "update", only_if_found=True)

    def forget_minibatch(self) -> None:
        """Begin a new minibatch."""
        self.held.forget()
        if self._repeater is not None:
            self._repeater.forget()
