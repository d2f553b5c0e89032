"""The incidents of a watch: explains findings, drops consequences, and informs the recorder."""

import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any, Concatenate, ParamSpec

import torch
from torch import Tensor

from esper.leyline.telemetry import SHARED
from esper.watching.checks.found import Found, Look, look_of
from esper.watching.checks.held import HeldMinibatch
from esper.watching.checks.looks import is_finite, kinds_of
from esper.watching.finding.explainer import Explainer
from esper.watching.finding.explaining import Explanation, Minibatch
from esper.watching.finding.frames import forget_variables
from esper.watching.given import GivenInputs
from esper.watching.guard import Guard
from esper.watching.model.generators import Generators
from esper.watching.model.parts import Part
from esper.watching.recorder import Trouble, UpdateRecord

_Arguments = ParamSpec("_Arguments")


def _keeping_nothing(
    method: Callable[Concatenate["Incidents", _Arguments], None],
) -> Callable[Concatenate["Incidents", _Arguments], None]:
    """Decorate a method that explains a minibatch, to release its tensors at the end."""

    @functools.wraps(method)
    def run(self: "Incidents", *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        finally:
            self._explainer.forget()
            forget_variables(sys._getframe(1))

    return run


class Incidents:
    """Explains findings, and reports them unless they are consequences of earlier ones.

    Args:
        explainer: finds the cause.
        parts: all parameters.
        guard: the watch's guard; its recorder is informed.
        takes_bad_steps: whether steps with non-finite values are taken.

    Attributes:
        found: the incidents so far.
        is_broken: whether weights are non-finite; all further findings are then consequences.
        acting_is_explained: whether acting is known to be bad in this update.
        given: non-finite inputs from environments.
    """

    def __init__(
        self, explainer: Explainer, parts: Sequence[Part], guard: Guard, *, takes_bad_steps: bool
    ) -> None:
        self._explainer = explainer
        self._parts = parts
        self._guard = guard
        self._takes_bad_steps = takes_bad_steps
        self.found: list[Trouble] = []
        self.is_broken = False
        self.acting_is_explained = False
        self.given = GivenInputs()
        # Explanations in this update and the one before, by phase and first findings.
        self._known: dict[tuple[str, Look], Explanation] = {}
        self._known_before: dict[tuple[str, Look], Explanation] = {}

    def end_update(self, record: UpdateRecord, *, is_last: bool = False) -> None:
        """Report unused inputs from environments; forget faults that did not occur again.

        Args:
            record: record of the ending update.
            is_last: whether this is the last update.
        """
        explanation = self.given.end_update(is_last=is_last)
        if explanation is not None:
            self.note(record, explanation, 0, "acting")
        self.acting_is_explained = False
        self._known_before, self._known = self._known, {}

    @_keeping_nothing
    def explain(
        self,
        record: UpdateRecord,
        held: HeldMinibatch,
        stack: list[FrameType],
        phase: str,
        *,
        outputs: Sequence[Any] = (),
        rngs: Sequence[torch.Tensor] = (),
        closure_rng: torch.Tensor | None = None,
        generators: Sequence[Generators] = (),
        optimizer: torch.optim.Optimizer | None = None,
        only_if_found: bool = False,
        only_if_harmful: bool = False,
        is_harmless: bool = False,
    ) -> None:
        """Explain a minibatch, or acting, from the frames on the stack.

        Args:
            record: record of the current update.
            held: values held of the minibatch.
            stack: frames, innermost first.
            phase: "acting" or "update".
            outputs: input and output of each call of the output layer.
            rngs: states of the random generator after the last steps, newest first.
            generators: states of other generators after the last steps.
            closure_rng: state of the random generator before the last call of the step's closure;
                None if there was none.
            optimizer: the optimizer about to step; None if there is none.
            only_if_found: report nothing if no non-finite tensor is found.
            only_if_harmful: report nothing if a too large loss scale explains it.
            is_harmless: whether later findings are not consequences, as after finite gradients.
        """
        held.is_explained = phase == "update"
        if self.is_broken or (phase == "acting" and self.acting_is_explained):
            return
        was_explained = self.acting_is_explained
        self.acting_is_explained |= phase == "acting"
        norms = tuple(norm for _, norm, _ in held.clips)
        gradients = held.gradients_of(self._parts)
        values = list(outputs), gradients, tuple(rngs), norms, held.bad_loss, closure_rng
        minibatch = Minibatch(
            *values, had_finite_gradients=held.had_finite_gradients, generators=generators
        )
        before = {**self._known_before, **self._known}
        known = {look: one for (when, look), one in before.items() if look and when == phase}
        try:
            explanation = self._explainer.explain(stack, phase, minibatch, optimizer, known)
        except Exception as error:  # noqa: BLE001 - the light must be reported anyway
            self._guard.count(error)
            explanation = self._explainer.without_explanation(minibatch, optimizer, error)
        if only_if_found and not explanation.found:
            self.acting_is_explained = was_explained
            return  # for example, an exception without non-finite values
        if only_if_harmful and not explanation.is_reproduced:
            return  # the loss scale was too high, which is not a fault
        is_repeat = (
            any(explanation is one for one in before.values())
            or self.given.is_consequence(explanation, phase)
            or any(_is_same_origin(explanation, one) for one in before.values())
        )
        explanation = self.given.placed(explanation, phase)
        self._known[phase, explanation.first_look] = explanation
        self._report(record, explanation, phase, is_repeat=is_repeat, is_harmless=is_harmless)

    @_keeping_nothing
    def explain_held(
        self,
        record: UpdateRecord,
        held: HeldMinibatch,
        bad_results: tuple[Found, ...],
        optimizer: torch.optim.Optimizer | None,
    ) -> None:
        """Explain a minibatch from its held values, if the loop's frames are not on the stack."""
        if held.is_explained or self.is_broken:
            return
        held.is_explained = True
        gradients = held.gradients_of(self._parts)
        look = look_of(bad_results) or _look_at(gradients, self._parts)
        known = {**self._known_before, **self._known}.get(("update", look))
        if known is None:
            explanation = self._explainer.explain_held(gradients, bad_results, optimizer)
        else:  # a lasting fault is not repeated again
            explanation = known
        if explanation.found:  # a sum of finite values may overflow
            self._known["update", look] = explanation
            is_repeat = known is not None
            self._report(record, explanation, "update", is_repeat=is_repeat)

    def check(
        self, record: UpdateRecord, found: tuple[str, str], values: Any, made_by: str, phase: str
    ) -> bool:
        """Check values that no layer of the model computes; return whether they are finite.

        Args:
            record: record of the current update.
            found: head and quantity of the values.
            values: a tensor, an array or a list of numbers.
            made_by: name of their source, for the report.
            phase: "acting" or "update".
        """
        tensor = torch.as_tensor(values).detach()
        kinds = kinds_of(tensor) if tensor.is_floating_point() else ()
        known = {one for trouble in record.troubles for one in trouble.explanation.found}
        new = tuple(Found(*found, kind) for kind in kinds)
        if not known.issuperset(new):
            reason = f"it comes from {made_by}" if made_by else "no layer of the model computes it"
            minibatch = record.steps if phase == "update" else 0
            self.note(record, Explanation(new, why_no_origin=reason), minibatch, phase)
        return not kinds

    def note_lasting(
        self, record: UpdateRecord, found: tuple[Found, ...], why_no_origin: str, minibatch: int
    ) -> None:
        """Report lasting damage, unless lasting damage was reported before."""
        if found and not self.is_broken:
            self.is_broken = True
            explanation = Explanation(found, why_no_origin=why_no_origin)
            self.note(record, explanation, minibatch, "update")

    def note_loss(
        self, record: UpdateRecord, why_no_origin: str, minibatch: int, kind: str
    ) -> None:
        """Report a non-finite loss whose gradients are finite; a repeated one is only counted.

        Args:
            record: record of the current update.
            why_no_origin: reason why its operation is not known.
            minibatch: number of the minibatch in the update.
            kind: kind of the loss: "nan", "+inf" or "-inf".
        """
        if self.is_broken:
            return
        new = Explanation((Found(SHARED, "loss", kind),), why_no_origin=why_no_origin)
        known = {**self._known_before, **self._known}.get(("update", look_of(new.found)))
        explanation = self._known["update", look_of(new.found)] = known or new
        if known is None:
            self.note(record, explanation, minibatch, "update")
        else:
            again = Trouble(record.number, minibatch, "update", explanation, is_repeat=True)
            record.troubles.append(again)

    def note(
        self, record: UpdateRecord, explanation: Explanation, minibatch: int, phase: str
    ) -> None:
        """Report an incident."""
        trouble = Trouble(record.number, minibatch, phase, explanation)
        self.found.append(trouble)
        record.troubles.append(trouble)
        with self._guard:
            self._guard.recorder.found(trouble)

    def _report(
        self,
        record: UpdateRecord,
        explanation: Explanation,
        phase: str,
        *,
        is_repeat: bool = False,
        is_harmless: bool = False,
    ) -> None:
        self.is_broken = _is_lasting(explanation.found)
        minibatch = record.minibatch if phase == "update" else 0
        if is_repeat:  # counted in its update, but not a new incident
            again = Trouble(record.number, minibatch, phase, explanation, is_repeat=True)
            record.troubles.append(again)
        else:
            self.note(record, explanation, minibatch, phase)
        if self._takes_bad_steps and phase == "update" and not is_harmless:
            self.is_broken = True  # all that follows is a consequence


def _look_at(gradients: Sequence[Tensor | None], parts: Sequence[Part]) -> Look:
    """Return which gradients are not finite."""
    return frozenset(
        (part.owner, "gradient", part.name)
        for part, gradient in zip(parts, gradients, strict=True)
        if gradient is not None and not is_finite(gradient)
    )


def _is_same_origin(one: Explanation, other: Explanation) -> bool:
    """Return whether two findings began in the same operation with the same bad inputs."""
    if one.origin is None or other.origin is None:
        return False
    owners = [{found.owner for found in each.found} - {SHARED} for each in (one, other)]
    if not owners[0] <= owners[1]:
        return False  # another head is also affected
    first, second = one.origin.operation, other.origin.operation
    places = [(each.name, each.place.file, each.place.line) for each in (first, second)]
    if first.poisons or second.poisons:
        return places[0] == places[1] and look_of(one.found) == look_of(other.found)
    return places[0] == places[1]


def _is_lasting(found: Iterable[Found]) -> bool:
    return any(one.quantity in ("parameters", "moments") for one in found)
