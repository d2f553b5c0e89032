"""`esper.watch`: watch any PyTorch training and record it in a run."""

import functools
import logging
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, get_args

import msgspec
import torch
from torch import nn

from esper.leyline.errors import EsperError
from esper.recipes.recipe import Rebuilding, Subject
from esper.recipes.table import subject_of
from esper.recording.capsule import LARGEST, CapsuleTooLargeError, Contents
from esper.recording.place import Continued, name_of_started_run
from esper.recording.ranks import Meeting, own_rank
from esper.recording.run_recorder import Description, RunRecorder
from esper.tracing.recorded import OPERATIONS, STORAGES, RecordedMinibatch
from esper.watching.agreement import Agreement, OnNonfinite
from esper.watching.finding.explainer import Replay
from esper.watching.hooking.hooks import bare, unwrapped
from esper.watching.model.heads import Head, HeadsError, check_module, heads_of, output_width
from esper.watching.model.parts import Groups
from esper.watching.recorder import Trouble
from esper.watching.watch import Watch, When

#: Maximum size in bytes of weights and optimizer state to copy before each update. A bad minibatch
#: of a larger model is repeated from its recorded operations, which take no memory in advance.
_LARGEST_START: Final = 16 << 20
_NOT_COMPUTED: Final = "it came from the environment: no operation of the training computed it"
_NOT_COPIED: Final = (
    f"weights and optimizer state take more than {_LARGEST_START >> 20} MiB, and are not copied "
    "before each update"
)
_OWN_LOOP: Final = "a custom training loop cannot be rebuilt elsewhere"


_log = logging.getLogger("esper")
#: Watches created in this process that may be open.
_open: "weakref.WeakSet[Watch]" = weakref.WeakSet()


class WatchError(EsperError, ValueError):
    """The model cannot be watched with these options; the message says why."""


class UnwritableRunError(WatchError):
    """The run cannot be written to its folder; the message says what to do."""


def watch(
    model: Any,
    optimizer: torch.optim.Optimizer | list[torch.optim.Optimizer] | None = None,
    heads: Any = None,
    *,
    groups: Groups | None = None,
    output_layer: nn.Module | None = None,
    name: str = "",
    run_dir: str | Path | None = None,
    on_nonfinite: OnNonfinite = "report",
    when: When = "auto",
    replay: Replay = "auto",
    config: Mapping[str, Any] | None = None,
    finds_updates: bool = True,
    continues: Continued | None = None,
) -> Watch:
    """Watch the training of a model until the watch is closed or the process ends.

    If several processes train together, as under torchrun, call it in each of them; they record one
    run. With "skip" and "halt" all ranks decide together, so all must call it with this option.

    Args:
        model: a module, a list of modules, an object of a known library (`esper.recipes`), or the
            description of one by a recipe (`Subject`).
        optimizer: the optimizer or optimizers; default: all optimizers in the process with
            parameters of the model. Until one steps, each backward pass counts as a step.
        heads: a Gymnasium space, `{name: width}`, `{name: module}`, or None.
        groups: further parts by name: a module, or a regular expression that is matched at the
            beginning of parameter names. A parameter of several groups belongs to the first.
        output_layer: the layer that computes the logits of the heads; detected by default.
        name: name of the run; default: the name given to `esper run`, or the training task.
        run_dir: the folder that contains runs; default `ESPER_RUN_DIR` or `runs`.
        on_nonfinite: "report" changes nothing; "skip" skips optimizer steps with non-finite
            gradients or a non-finite loss; "halt" ends the process with exit code 3 at such a step,
            or earlier at a non-finite output.
        when: "step" checks each optimizer step and finds the operation; "update" keeps flags on the
            device and reads them once per update; "auto" is "update" on a GPU if `on_nonfinite` is
            "report", otherwise "step".
        replay: "auto" repeats a bad minibatch immediately to find the operation; "model" repeats
            only the call of the model, never the training loop; "off" repeats nothing.
        config: training settings to record: numbers, strings, and lists or dictionaries of these.
        finds_updates: whether to detect updates by the change from acting to learning, or by time;
            False if each update is ended by `Watch.update`.
        continues: the state of an ended run to continue (`RunRecorder.continued`); None for a new
            run.

    Raises:
        HeadsError: heads or groups do not fit the model.
        WatchError: `model` cannot be watched, or an option has a wrong value.
        RanksError: several processes train together, and cannot agree on their run.
        UnwritableRunError: the run cannot be written; a subclass of `WatchError`.
        RunPathError: the path of the run's directory would be too long.
    """
    _check_choice("on_nonfinite", on_nonfinite, get_args(OnNonfinite))
    _check_choice("when", when, get_args(When))
    _check_choice("replay", replay, get_args(Replay))
    _check_type("name", name, str, "a string")
    _check_type("run_dir", run_dir, (str, Path, type(None)), "a path")
    _check_type("output_layer", output_layer, (nn.Module, type(None)), "a module of the model")
    if when == "update" and on_nonfinite != "report":
        raise WatchError(
            f"on_nonfinite={on_nonfinite!r} needs when='step': with when='update', a bad step is "
            "detected only after it was taken"
        )
    settings = _checked({} if config is None else config)
    subject = _subject(model, optimizer, heads, output_layer)
    device = next(subject.models[0].parameters(), torch.empty(0)).device
    rank, agreement = own_rank(), None
    meeting = None if rank.is_alone else Meeting(rank)
    if output_layer is not None:
        _check_layer(output_layer, subject)
    groups = dict(subject.groups) if groups is None else groups
    if meeting is not None and on_nonfinite != "report":
        meeting.wait_for_all(on_nonfinite)
        agreement = Agreement(device)
    watched = Watch(
        subject.models,
        subject.optimizers,
        subject.heads,
        groups=groups,
        output_layer=subject.output_layer,
        on_nonfinite=on_nonfinite,
        when=when,
        replay=replay if subject.runs_again or replay == "off" else "model",
        finds_updates=finds_updates and subject.update_method is None,
        inputs=subject.inputs,
        repeater=subject.repeater,
        hooks_steps=not subject.reports_steps,
        record_bytes=0 if replay == "off" else LARGEST,
        agreement=agreement,
        has_ranks=meeting is not None,
    )
    described = Description(
        name=name or name_of_started_run() or subject.task or type(subject.models[0]).__name__,
        library=subject.library,
        heads=[*watched.heads, *(Head(group, "group") for group in groups)],
        task=subject.task,
        device=str(device),
        seed=subject.seed,
        config={**subject.config, **settings},
        on_nonfinite=on_nonfinite,
    )
    folder = None if run_dir is None else Path(run_dir)
    try:
        recorder = RunRecorder(described, folder, continues, meeting)
    except OSError as error:
        watched.close()
        raise _unwritable(error) from error
    except BaseException:  # KeyboardInterrupt, too; raised again
        watched.close()
        raise
    _close_earlier(watched)
    watched.record_with(recorder, recorder.first_update)
    recorder.close_at_exit(watched.close)
    if replay != "off":
        if subject.rebuilding_of is not None:
            watched.keep_start(_LARGEST_START)
        recorder.keep_capsules(functools.partial(_contents_of, watched, subject, on_nonfinite))
    if subject.update_method is not None:
        _wrap_update(watched, subject, *subject.update_method)
    _explain_at_exit(watched)
    return watched


def _close_earlier(watched: Watch) -> None:
    """Close an earlier watch of the same parameters, as when a notebook cell is run again."""
    parameters = {id(part.parameter) for part in watched.parts}
    for earlier in list(_open):
        is_same = {id(part.parameter) for part in earlier.parts} == parameters
        if is_same and not earlier.is_closed:
            earlier.close()
            if isinstance(recorder := earlier.recorder, RunRecorder):
                _log.warning("this model is watched again: its run %s has ended", recorder.run.name)
        if earlier.is_closed:
            _open.discard(earlier)
    _open.add(watched)


def _unwritable(error: OSError) -> UnwritableRunError:
    """Return the error for a run that cannot be written, with the place, the reason and advice."""
    place = f" in {error.filename}" if error.filename else ""
    reason = error.strerror or type(error).__name__
    return UnwritableRunError(
        f"the run cannot be written{place} ({reason}): set run_dir or ESPER_RUN_DIR to a writable "
        "folder"
    )


def _contents_of(watched: Watch, subject: Subject, on_nonfinite: str, trouble: Trouble) -> Contents:
    """Return the contents of an incident's capsule."""
    start = watched.start_of(trouble, LARGEST)
    is_before_update = watched.keeps_start or trouble.phase == "acting"
    if not start:
        raise CapsuleTooLargeError
    rebuilding = Rebuilding(reason=subject.why_not_rebuilt, data=dict(watched.variables))
    found = trouble.explanation.found
    if trouble.explanation.origin is None and any(one.environment is not None for one in found):
        rebuilding = Rebuilding(reason=_NOT_COMPUTED)
    elif subject.rebuilding_of is not None and is_before_update:
        rebuilding = subject.rebuilding_of(trouble.phase)
    elif subject.rebuilding_of is not None:
        rebuilding = replace(rebuilding, reason=_NOT_COPIED)
    if not rebuilding.rebuilder and watched.recorded is not None:
        rebuilding = _rebuilding_of_operations(rebuilding, watched.recorded)
    return Contents(
        rebuilding.rebuilder,
        rebuilding.reason,
        dict(rebuilding.plan),
        start,
        dict(rebuilding.data),
        device=str(next(subject.models[0].parameters(), torch.empty(0)).device),
        on_nonfinite=on_nonfinite,
    )


def _rebuilding_of_operations(rebuilding: Rebuilding, recorded: RecordedMinibatch) -> Rebuilding:
    """Add the recorded operations of a minibatch, or the reason why there are none."""
    if recorded.recording is None:
        reason = f"{rebuilding.reason}, and its operations were not recorded: {recorded.reason}"
        return replace(rebuilding, reason=reason)
    return Rebuilding(
        rebuilder=OPERATIONS,
        plan=msgspec.to_builtins(recorded.recording),
        data={**rebuilding.data, STORAGES: recorded.storages},
    )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise WatchError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def _check_type(name: str, value: object, types: type | tuple[type, ...], what: str) -> None:
    if not isinstance(value, types):
        raise WatchError(f"{name} must be {what}, not {value!r}")


def _check_layer(layer: nn.Module, subject: Subject) -> None:
    """Raise an exception if a layer cannot be the one that computes the outputs of the heads."""
    check_module("output_layer", layer, subject.models)
    width, outputs = output_width(heads_of(subject.heads)), getattr(layer, "out_features", None)
    if outputs is not None and outputs < width:
        raise HeadsError(f"output_layer has {outputs} outputs, and the heads need {width}")


def _subject(
    model: Any,
    optimizer: torch.optim.Optimizer | list[torch.optim.Optimizer] | None,
    heads: Any,
    output_layer: nn.Module | None,
) -> Subject:
    optimizers = None if optimizer is None else _optimizers_in(optimizer)
    model = bare(model)
    known = model if isinstance(model, Subject) else subject_of(model)
    if known is None:
        models = [bare(one) for one in (model if isinstance(model, (list, tuple)) else [model])]
        if not models or not all(isinstance(one, nn.Module) for one in models):
            raise WatchError(
                f"cannot watch a {type(model).__name__}: give a torch.nn.Module, a list of "
                "modules, or an object of a library with a recipe"
            )
        return Subject(models, optimizers or (), heads, output_layer, why_not_rebuilt=_OWN_LOOP)
    given = {"optimizers": optimizers, "heads": heads, "output_layer": output_layer}
    return replace(known, **{key: value for key, value in given.items() if value is not None})


def _optimizers_in(given: Any) -> list[torch.optim.Optimizer]:
    """Return the optimizers that were given, without wrappers."""
    is_several = isinstance(given, Iterable) and not isinstance(given, (str, Mapping))
    optimizers = [unwrapped(one) for one in (given if is_several else [given])]
    for one in optimizers:
        if isinstance(one, type) or not hasattr(one, "register_step_pre_hook"):
            raise WatchError(
                f"optimizer must be a torch.optim.Optimizer or a list of them, not {_kind(one)}"
            )
    return optimizers


def _checked(config: Any) -> dict[str, Any]:
    """Return settings, after checking that all of them can be recorded."""
    if not isinstance(config, Mapping):
        advice = ": give vars(config)" if hasattr(config, "__dict__") else ""
        raise WatchError(f"config must be a dictionary of settings, not {_kind(config)}{advice}")
    for name, value in config.items():
        try:
            msgspec.json.encode({name: value})
            msgspec.msgpack.encode({name: value})
        except Exception as error:
            inside = " with others in it" if isinstance(value, (list, tuple, Mapping)) else ""
            raise WatchError(
                f"config[{name!r}] cannot be recorded: it must be a number, a string, or a list or "
                f"dictionary of these, not {_kind(value)}{inside}"
            ) from error
    return dict(config)


def _kind(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _wrap_update(watched: Watch, subject: Subject, owner: object, method: str) -> None:
    """Record each call of a method as one update, and explain exceptions in it."""
    original: Callable[..., Any] = getattr(owner, method)

    @functools.wraps(original)
    def update(*args: Any, **kwargs: Any) -> Any:
        with watched.updating():
            try:
                result = original(*args, **kwargs)
            except BaseException as error:  # KeyboardInterrupt, too; raised again
                watched.end(error)
                raise
        watched.log(**subject.figures_of_result(result))
        watched.update(**subject.figures())
        return result

    setattr(owner, method, update)


def _explain_at_exit(watched: Watch) -> None:
    """Explain an uncaught exception if the watch is not used as a context manager."""
    before, own = sys.excepthook, weakref.ref(watched)

    def hook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if (watch := own()) is not None:
            # At an interactive prompt, an exception does not end the training.
            is_at_prompt = hasattr(sys, "ps1") or bool(sys.flags.interactive)
            (watch.explain if is_at_prompt else watch.end)(error, traceback)
        before(kind, error, traceback)

    sys.excepthook = hook
