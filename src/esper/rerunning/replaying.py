"""Repeats an incident of a watched run: untraced up to the minibatch before it, then traced."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any, Final

import msgspec
import numpy as np
import torch
from torch import Tensor

from esper.leyline.telemetry import IncidentOrigin, NonfiniteSighting
from esper.leyline.text.plain_text import printable
from esper.leyline.text.source_paths import short_path
from esper.recipes.sb3.plan import REBUILDER, OnPolicyPlan
from esper.recipes.sb3.recipe import subject_of
from esper.recording.capsule import WatchedCapsule, versions
from esper.recording.run_recorder import sightings_of
from esper.rerunning.bounded import BoundedMemory
from esper.rerunning.observers import OBSERVERS, files_of
from esper.rerunning.recorded_operations import REMARK, run_recorded, verdict_of
from esper.rerunning.sb3 import plan_of, rebuild
from esper.simic.command_progress import Report, no_report
from esper.simic.replay.incidents import IncidentError
from esper.simic.replay.replaying import Replay
from esper.simic.replay.verdict import DIFFERS, REPRODUCED, judge
from esper.tracing.origin import Origin
from esper.tracing.recorded import OPERATIONS
from esper.tracing.tracer import OperationTracer
from esper.tracing.without_compiler import without_compiler
from esper.watching.agreement import OnNonfinite
from esper.watching.checks.found import Found
from esper.watching.finding.beginning import as_it_began
from esper.watching.finding.explaining import CALLERS, origin_in, origin_in_use
from esper.watching.finding.frames import is_plumbing, tensors_in
from esper.watching.hooking.backward_pass import losses_in
from esper.watching.hooking.hooks import BackwardWatch
from esper.watching.model.heads import OUTPUT_QUANTITIES
from esper.watching.watch import Watch

_NEVER_NEGATIVE: Final = ("exp_avg_sq", "square_avg", "max_exp_avg_sq")
#: Quantities that flags on the device can name (`esper.watching.checks.flag_evidence`).
_BY_FLAGS: Final = ("features", "gradient", *OUTPUT_QUANTITIES.values())
#: Names of an LSTM's initial states in capsules and in the library's loop.
_STATES: Final = {
    f"{state}_states_{net}": f"lstm_states.{net}[{number}]"
    for net in ("pi", "vf")
    for number, state in enumerate(("hidden", "cell"))
}
_MOST_THREADS: Final = 1024
#: Settings that may be the number in an operation that made a value non-finite.
_NUMBERS: Final = ("gamma", "ent_coef", "vf_coef", "max_grad_norm", "clip_range", "learning_rate")


class _EnoughSeen(BaseException):
    """Ends a replay at the step of the incident. Not an Exception, so that no loop catches it."""


@without_compiler(BoundedMemory, OperationTracer)
def replay_watched(capsule: WatchedCapsule, report: Report = no_report) -> tuple[Replay, int]:
    """Repeat the incident in a capsule of a watched run.

    Args:
        capsule: the capsule.
        report: receives the current work, and the fraction of all work that is done.

    Returns:
        The result, and 0: minibatches are counted by update, not by epoch.

    Raises:
        IncidentError: the incident cannot be repeated; the message is one sentence.
    """
    if capsule.rebuilder not in (REBUILDER, OPERATIONS):
        raise IncidentError(_unrepeatable(capsule))
    if capsule.phase not in ("acting", "update") or not 1 <= capsule.threads <= _MOST_THREADS:
        raise IncidentError("the capsule cannot be replayed: its phase or its threads are unknown")
    if capsule.rebuilder == OPERATIONS:
        return _replay_operations(capsule, report), 0
    plan = plan_of(capsule)
    model = rebuild(capsule, plan)
    repetition = _Repetition(capsule, plan, model, report)
    with _as_it_was(capsule):
        seen, origin = repetition.run()
    recorded = tuple(msgspec.convert(capsule.sightings, list[NonfiniteSighting]))
    if any(one.phase == "environment" for one in recorded):  # a replay steps no environment
        verdict, differences, _ = verdict_of(capsule, origin)
    else:
        verdict, differences = judge(recorded, seen, (capsule.phase,))
    remarks = list(_remarks(capsule))
    if verdict == DIFFERS and _is_same_by_flags(recorded, seen):
        verdict, differences = REPRODUCED, ()
        remarks.append("training recorded only flags; the replay names the exact quantity")
    replayed = Replay(
        update=capsule.update,
        verdict=verdict,
        differences=differences,
        recorded=recorded,
        seen=seen,
        origin=origin,
        poisons=repetition.tracer.poisons,
        remarks=tuple(remarks),
        recorded_with=_recorded_with(capsule),
        is_acting=capsule.phase == "acting",
    )
    return replayed, 0  # minibatches are counted by update, as in training


def _replay_operations(capsule: WatchedCapsule, report: Report) -> Replay:
    """Repeat the recorded operations of a minibatch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(capsule.threads)
    try:
        origin, tracer = run_recorded(capsule, report)
    finally:
        torch.set_num_threads(threads)
    verdict, differences, seen = verdict_of(capsule, origin)
    return Replay(
        update=capsule.update,
        verdict=verdict,
        differences=differences,
        recorded=tuple(msgspec.convert(capsule.sightings, list[NonfiniteSighting])),
        seen=seen,
        origin=origin,
        poisons=tracer.poisons,
        remarks=(REMARK, *_remarks(capsule)),
        recorded_with=_recorded_with(capsule),
        is_acting=capsule.phase == "acting",
    )


def _recorded_with(capsule: WatchedCapsule) -> str:
    named = [f"{name} {version}" for name, version in capsule.versions.items()]
    return ", ".join((*named, f"{capsule.device}, threads {capsule.threads}"))


def _is_same_by_flags(
    recorded: Sequence[NonfiniteSighting], seen: Sequence[NonfiniteSighting]
) -> bool:
    """Return whether a replay found in the same minibatch what training detected only by flags."""
    if not recorded or not seen or not all(one.quantity in _BY_FLAGS for one in recorded):
        return False
    return {one.minibatch for one in recorded} == {one.minibatch for one in seen}


def _unrepeatable(capsule: WatchedCapsule) -> str:
    """Return why an incident cannot be repeated, and what is known about it."""
    reason = capsule.reason or f"this version of Esper does not know {capsule.rebuilder[:40]!r}"
    known = ""
    with suppress(msgspec.ValidationError):  # no origin was found
        origin = msgspec.convert(capsule.origin, IncidentOrigin)
        place = f" at {short_path(origin.file)}:{origin.line}" if origin.file else ""
        known = f"; during training, its origin was found: {origin.operation}{place}"
    return printable(
        f"this incident cannot be repeated in another process ({reason}){known}; weights and "
        "tensors of its minibatch are in capsule.pt; torch.load(…, weights_only=True) reads them"
    )


class _Repetition:
    """One repetition, from the start of the update, or of one choice of actions."""

    def __init__(
        self, capsule: WatchedCapsule, plan: OnPolicyPlan, model: Any, report: Report
    ) -> None:
        self._capsule = capsule
        self._plan = plan
        self._model = model
        self._report = report
        self._optimizer: torch.optim.Optimizer = model.policy.optimizer
        self._steps = 0
        self._seen: list[Tensor] = []
        self._is_tracing = False
        self.tracer = OperationTracer(
            model.policy,
            type(model.policy).__name__,
            _named(model),
            numbers=_numbers(plan),
            never_negative=[
                f"optimizer {kind} of {name}"
                for name, _ in model.policy.named_parameters()
                for kind in _NEVER_NEGATIVE
            ],
            observers=(*OBSERVERS, *files_of(type(model.rollout_buffer))),
            is_plumbing=is_plumbing,
            loop="train" if capsule.phase == "update" else "",
            callers=CALLERS,
            masks_by_value=True,
        )

    def run(self) -> tuple[tuple[NonfiniteSighting, ...], Origin | None]:
        """Repeat the incident; return the sightings and their origin."""
        subject = subject_of(self._model)
        assert subject is not None
        assert subject.output_layer is not None  # every policy that has a plan has one
        handles = [
            self._model.policy.optimizer.register_step_pre_hook(self._before_watch),
            subject.output_layer.register_forward_hook(self._on_output),
        ]
        on_nonfinite: OnNonfinite = "skip" if self._capsule.on_nonfinite == "skip" else "report"
        watch = Watch(
            subject.models,
            subject.optimizers,
            subject.heads,
            output_layer=subject.output_layer,
            on_nonfinite=on_nonfinite,
            when="step",
            replay="off",
            finds_updates=False,
            first_update=self._capsule.update,
            inputs=subject.inputs if self._capsule.phase == "update" else self._observed,
        )
        handles.append(self._optimizer.register_step_pre_hook(self._after_watch_of(watch)))
        handles.append(self._optimizer.register_step_post_hook(self._after_step))
        losses = BackwardWatch(lambda tensors: self._seen.extend(losses_in(tensors)))
        self._model.rollout_buffer.get = self._naming(self._model.rollout_buffer.get)
        try:
            is_update = self._capsule.phase == "update"
            with watch.updating() if is_update else nullcontext():
                self._repeat(watch)
        finally:
            self._stop_tracing()
            for handle in handles:
                handle.remove()
            losses.close()
            watch.close()
        if watch.failures:
            raise IncidentError(f"the replay failed: {watch.last_failure}")
        if not watch.troubles:
            return (), None
        trouble = watch.troubles[-1]
        seen = tuple(sightings_of(trouble))
        origin = self._origin(seen)
        if origin is not None:
            found = as_it_began(trouble.explanation.found, origin.operation, watch.owners)
            explanation = replace(trouble.explanation, found=found)
            seen = tuple(sightings_of(replace(trouble, explanation=explanation)))
        return seen, origin

    def _observed(self) -> dict[str, Tensor]:
        """Return the policy's inputs while acting, named as in the library's loop."""
        return {
            f"obs_tensor[{key!r}]" if key else "obs_tensor": tensor
            for path, tensor in self._capsule.data.items()
            if path.startswith("observations")
            for key in [path.partition(".")[2]]
        }

    def _repeat(self, watch: Watch) -> None:
        self._trace_from(1)
        try:
            if self._capsule.phase == "update":
                self._model.train()
            else:
                held = {
                    f"variable {_STATES.get(name, name)}": tensor
                    for name, tensor in self._capsule.data.items()
                }
                observed = self._observed().items()
                self.tracer.name_inputs(held | {f"variable {name}": one for name, one in observed})
                _act(self._model, self._capsule)
        except _EnoughSeen:
            return
        except Exception as error:  # noqa: BLE001 - the library refused NaN, as in training
            watch.end(error)
            return
        self._stop_tracing()
        if self._capsule.phase == "update":
            watch.update()

    def _before_watch(self, *_: object) -> None:
        self._steps += 1
        self._seen += [p.grad for p in self._model.policy.parameters() if p.grad is not None]

    def _after_watch_of(self, watch: Watch) -> Callable[..., None]:
        def after_watch(*_: object) -> None:
            due = self._capsule.minibatch
            done = min(self._steps / max(due, 1), 1.0)
            self._report(f"replaying, minibatch {self._steps} of {due}", done)
            is_last = self._steps >= due or self._capsule.on_nonfinite != "skip"
            if watch.troubles and is_last:
                raise _EnoughSeen
            if self._is_tracing:
                self.tracer.phase = "step"

        return after_watch

    def _after_step(self, *_: object) -> None:
        self._seen.clear()
        if self._steps > self._capsule.minibatch:
            self._stop_tracing()
        self._trace_from(self._steps + 1)
        if self._is_tracing:
            self.tracer.phase, self.tracer.minibatch = "forward", self._steps

    def _on_output(self, _module: object, _inputs: object, output: Any) -> None:
        if isinstance(output, Tensor):
            self._seen.append(output)

    def _trace_from(self, minibatch: int) -> None:
        """Start tracing at the minibatch before the incident: its step may be the cause."""
        first = max(self._capsule.minibatch - 1, 1)
        if (not self._is_tracing and first <= minibatch <= self._capsule.minibatch) or (
            not self._is_tracing and self._capsule.phase == "acting"
        ):
            self._is_tracing = True
            self.tracer.__enter__()
            self.tracer.phase = "forward"
            self.tracer.minibatch = None if self._capsule.phase == "acting" else minibatch - 1

    def _stop_tracing(self) -> None:
        if self._is_tracing:
            self._is_tracing = False
            self.tracer.__exit__(None, None, None)

    def _naming(self, get: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """Name the tensors of each minibatch as the library's loop does."""

        def batches(*args: Any, **kwargs: Any) -> Iterator[Any]:
            for batch in get(*args, **kwargs):
                if self._is_tracing:
                    named = tensors_in("variable rollout_data", batch)
                    self.tracer.name_inputs(dict(named))
                yield batch

        return batches

    def _origin(self, seen: tuple[NonfiniteSighting, ...]) -> Origin | None:
        if not seen:
            return None
        self._report("finding where it began", 1.0)
        looked_at = list(self._seen)
        if seen[0].quantity in ("parameters", "moments"):
            looked_at = _tensors_of_state(self._model)
        bad = [one for one in looked_at if not bool(one.detach().isfinite().all())]
        found = [Found(one.head, one.quantity, one.kind, one.part) for one in seen]
        return origin_in(self.tracer, bad) or origin_in_use(self.tracer, found)


def _act(model: Any, capsule: WatchedCapsule) -> None:
    """Call the policy as the library does while it acts."""
    data = capsule.data
    observations: Any = {
        path.partition(".")[2]: tensor
        for path, tensor in data.items()
        if path.startswith("observations.")
    } or data["observations"]
    model.policy.set_training_mode(False)
    with torch.no_grad():
        if "hidden_states_pi" not in data:
            model.policy(observations)
            return
        from sb3_contrib.common.recurrent.type_aliases import RNNStates

        states = RNNStates(
            (data["hidden_states_pi"], data["cell_states_pi"]),
            (data["hidden_states_vf"], data["cell_states_vf"]),
        )
        model.policy(observations, states, data["episode_starts"])


def _named(model: Any) -> dict[str, Tensor]:
    """Return the weights and the optimizer's state of them, by the names shown in a report."""
    named = {}
    for name, parameter in model.policy.named_parameters():
        named[f"weight {name}"] = parameter.detach()
        state = model.policy.optimizer.state.get(parameter, {})
        named |= {
            f"optimizer {kind} of {name}": value
            for kind, value in state.items()
            if isinstance(value, Tensor)
        }
    return named


def _numbers(plan: OnPolicyPlan) -> dict[str, float]:
    settings = {name: getattr(plan, name) for name in _NUMBERS}
    settings |= plan.arguments.optimizer_kwargs
    return {
        f"setting {name}": float(value)
        for name, value in settings.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _tensors_of_state(model: Any) -> list[Tensor]:
    kept = [
        value
        for state in model.policy.optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    return [*kept, *(parameter.detach() for parameter in model.policy.parameters())]


def _remarks(capsule: WatchedCapsule) -> Iterator[str]:
    here = versions()
    for name, recorded in capsule.versions.items():
        if here.get(name) != recorded:
            now = here.get(name, "none")
            yield f"recorded with {name} {recorded}, replayed with {now}"
    if not capsule.device.startswith("cpu"):
        yield f"recorded on {capsule.device}, replayed on cpu"


@contextmanager
def _as_it_was(capsule: WatchedCapsule) -> Iterator[None]:
    """Use the training's threads and random generator states, and restore the current ones."""
    threads = torch.get_num_threads()
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.set_num_threads(capsule.threads)
    try:
        _set_random_states(capsule.start.get("random"))
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def _set_random_states(states: Any) -> None:
    try:
        keys, position, has_gauss, gauss = states["numpy"]
        version, internal, next_gauss = states["python"]
        numbers = tuple(internal.tolist())
        torch.set_rng_state(states["torch"])
        np.random.set_state(
            ("MT19937", keys.numpy().astype(np.uint32), int(position), int(has_gauss), float(gauss))
        )
        random.setstate((version, numbers, next_gauss))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError):
        raise IncidentError(
            "the capsule cannot be replayed: a state of its random generators does not fit"
        ) from None
