"""Records a watched training run in a run directory, where Sanctum reads it."""

import atexit
import logging
import os
import platform
import socket
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch
from msgspec.structs import replace

from esper.karn.store.liveness import process_start_time
from esper.karn.store.rank_folders import Rank, rank_folder
from esper.karn.store.run_store import RunWriter
from esper.leyline.gpu_load import GpuLoad
from esper.leyline.telemetry import (
    IncidentOrigin,
    IncidentRecorded,
    InterventionTaken,
    NonfiniteSighting,
    Notice,
    PPOUpdatePayload,
    RunFinished,
    RunStarted,
)
from esper.leyline.text.rank_words import ranks_words
from esper.leyline.text.sighting_words import what_words
from esper.leyline.version import VERSION
from esper.recording.capsule import CapsuleKeeper, Contents
from esper.recording.incident_log import IncidentLog, halt_reason, kind_of
from esper.recording.place import Continued, place_of
from esper.recording.ranks import Meeting
from esper.tracing.origin import Origin
from esper.watching.model.heads import Head
from esper.watching.recorder import Trouble, UpdateRecord

#: Store size in MiB above which old events are thinned.
STORE_MEGABYTES: Final = 2048
#: Names that training loops use in their logs, by field of `PPOUpdatePayload`. Only the part after
#: the last slash is compared, ignoring case.
_KNOWN_FIGURES: Final[Mapping[str, tuple[str, ...]]] = {
    "policy_loss": ("policy_loss", "policy_gradient_loss", "pg_loss", "actor_loss"),
    "value_loss": ("value_loss", "v_loss", "critic_loss"),
    "entropy": ("entropy",),
    "approximate_kl": ("approx_kl", "approximate_kl", "kl"),
    "clip_fraction": ("clip_fraction", "clipfrac", "clip_frac"),
    "explained_variance": ("explained_variance", "explained_var"),
}
_FIELDS: Final = {name: field for field, names in _KNOWN_FIGURES.items() for name in names}

_log = logging.getLogger("esper")


@dataclass(frozen=True)
class Description:
    """Description of a watched run at its start.

    Attributes:
        name: the run's name; becomes part of its id.
        library: distribution of the watched library; "torch" for a plain loop.
        heads: the heads, followed by the groups.
        task: the training task, such as the environment's id; empty if unknown.
        device: device of the model's parameters.
        seed: random seed; None if unknown.
        config: training settings to record.
        on_nonfinite: the watch's setting.
    """

    name: str
    library: str
    heads: Sequence[Head]
    task: str = ""
    device: str = "cpu"
    seed: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    on_nonfinite: str = "report"


def library_version(distribution: str) -> str:
    """Return a library's name and version, such as "torch 2.15.0"."""
    try:
        return f"{distribution} {version(distribution)}"
    except PackageNotFoundError:
        return distribution


class RunRecorder:
    """Writes the events of a watched run.

    Args:
        description: description of the run.
        run_dir: the folder that contains runs; default `ESPER_RUN_DIR` or `runs`.
        continues: an earlier run of this process to continue; None for a new run.
        meeting: meeting of the ranks that record this run; None if this process trains alone.

    Attributes:
        run: the run's directory.
        rank: rank of this process in the run.
        directory: the directory of this process's rank, in which it records.
        first_update: number of the next update.

    Raises:
        OSError: the run's directory cannot be created.
        RanksError: the ranks cannot agree on a directory.
        RunPathError: the path of the run's directory would be too long.
    """

    def __init__(
        self,
        description: Description,
        run_dir: Path | None = None,
        continues: Continued | None = None,
        meeting: Meeting | None = None,
    ) -> None:
        place = place_of(description.name, run_dir, continues, meeting)
        self.run, self.rank, continues = place.run, place.rank, place.continues
        self.first_update = place.first_update
        self.directory = rank_folder(self.run, self.rank.rank)
        self._meeting = meeting
        self._pid = os.getpid()
        self._writer = RunWriter(
            self.directory, _log.warning, limit_bytes=STORE_MEGABYTES << 20, gpu=_gpu_load
        )
        self._update = 0 if continues is None else continues.update
        self._incidents = 0 if continues is None else continues.incidents
        resumed = None if continues is None else continues.update
        started = _started(description, self.run.name, resumed, self.rank)
        self._writer.emit(started, durable=True)
        self._keeper: CapsuleKeeper | None = None
        number = None if self.rank.is_alone else self.rank.rank
        self._log_lines = IncidentLog(self.run, description.on_nonfinite, number)
        self._failure = 0, ""  # number of failures of the watch, and the last one
        self._recorded_failures = 0
        self._last_update_of: dict[object, int] = {}  # by kind of incident
        self._at_exit: Callable[[], None] = self._close
        atexit.register(self._at_exit)
        own = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forget_at_exit(own()))

    def keep_capsules(self, contents_of: Callable[[Trouble], Contents]) -> None:
        """Write capsules from now on.

        Args:
            contents_of: returns the library's state before an incident.
        """
        self._keeper = CapsuleKeeper(self.directory, contents_of)

    def found(self, trouble: Trouble) -> None:
        """Latch the lights of an incident and record its origin.

        If the same sightings with the same origin were seen in the same or the previous update,
        this is not a new incident; it is only counted in the update events.
        """
        if self._is_forked:
            return
        found = trouble.explanation.origin
        origin = None if found is None else _origin(found, trouble)
        sightings = sightings_of(trouble)
        if not self._is_repeated(trouble.update, kind_of(sightings, origin)):
            self._record(trouble, sightings, origin)
        self._log_lines.incident(trouble, sightings, origin)

    def _record(
        self,
        trouble: Trouble,
        sightings: list[NonfiniteSighting],
        origin: IncidentOrigin | None,
    ) -> None:
        self._incidents += 1
        recorded = IncidentRecorded(
            update=trouble.update,
            number=self._incidents,
            path="",
            size=0,
            reason="this run keeps no capsules",
            origin=origin,
            no_origin=trouble.explanation.why_no_origin,
            sightings=sightings,
        )
        if self._keeper is not None:
            kept = self._keeper.record(trouble, self._incidents, sightings, origin)
            recorded = replace(recorded, path=kept.path, size=kept.size, reason=kept.reason)
        self._writer.emit(recorded, durable=True)

    def _is_repeated(self, update: int, kind: object) -> bool:
        """Return whether an incident of this kind was in this update or the one before, too."""
        recent = {one: last for one, last in self._last_update_of.items() if last >= update - 1}
        self._last_update_of = recent | {kind: update}
        return kind in recent

    def updated(self, record: UpdateRecord) -> None:
        """Record an update that ended; if it has an incident, sync it to disk."""
        if self._is_forked:
            return
        self._update = record.number
        self._log_lines.update(record)
        payload = _payload(record)
        self._writer.emit(payload, durable=bool(record.troubles))
        if record.left_out:
            cause = ", ".join(what_words(seen) for seen in payload.head_nonfinite)
            if not cause and record.blamed_ranks:
                cause = f"what {ranks_words(record.blamed_ranks)} saw"
            self._writer.emit(
                InterventionTaken(
                    update=record.number,
                    action="skip",
                    cause=cause or "non-finite values reported before continue",
                    reason=f"{record.left_out} of {record.steps} optimizer steps were skipped",
                )
            )

    def failed(self, count: int, sentence: str) -> None:
        """Log that the watch itself failed, at failure 1, 10, 100 and so on."""
        if self._is_forked:
            return
        self._failure = count, sentence
        if str(count).strip("0") == "1":
            _log.warning("%s", self._emit_failure())

    def _emit_failure(self) -> str:
        """Record the last failure of the watch; return its text."""
        count, sentence = self._failure
        self._recorded_failures = count
        times = "failed" if count == 1 else f"failed {count} times"
        text = f"the watch itself {times}; training continues, lights may be missing: {sentence}"
        self._writer.emit(Notice(level="error", text=text, monitor_failures=count))
        return text

    def ended(self, status: str, reason: str) -> None:
        """Record the end of the run and close its store."""
        atexit.unregister(self._at_exit)
        if self._is_forked:
            return
        if self._failure[0] != self._recorded_failures:
            self._emit_failure()
        if status == "halted":
            cause = f"what {reason} saw" if reason else f"incident {self._incidents}"
            reason = halt_reason(self._incidents, reason)
            self._writer.emit(
                InterventionTaken(
                    update=self._update,
                    action="halt",
                    cause=cause,
                    reason="on_nonfinite='halt'",
                )
            )
        self._writer.emit(
            RunFinished(status=status, update=self._update, episodes_done=0, reason=reason),
            durable=True,
        )
        self._writer.close()
        self._log_lines.end(status, reason)
        if status == "halted" and self._meeting is not None:
            self._meeting.leave_together()

    @property
    def last_finding(self) -> str:
        """Text of the last logged incident, with the next command to run; empty if none."""
        return self._log_lines.last_finding

    @property
    def continued(self) -> Continued:
        """The state needed to continue the run after its end."""
        return Continued(self.run, self._update, self._incidents)

    def close_at_exit(self, close: Callable[[], None]) -> None:
        """Call a function at process exit, unless the run has ended before.

        Args:
            close: ends the last update, then the run.
        """
        atexit.unregister(self._at_exit)
        self._at_exit = close
        atexit.register(close)

    def _close(self) -> None:
        self.ended("finished", "")

    @property
    def _is_forked(self) -> bool:
        return os.getpid() != self._pid


def _forget_at_exit(recorder: RunRecorder | None) -> None:
    if recorder is not None:
        atexit.unregister(recorder._at_exit)


def sightings_of(trouble: Trouble) -> list[NonfiniteSighting]:
    """Return the sightings of an incident."""
    return [
        NonfiniteSighting(
            head=found.owner,
            quantity=found.quantity,
            kind=found.kind,
            count=1,
            epoch=0,
            minibatch=trouble.minibatch if found.environment is None else 0,
            last_minibatch=trouble.minibatch if found.environment is None else 0,
            phase=trouble.phase if found.environment is None else "environment",
            host=found.environment,
            step=found.step,
            part=found.part,
        )
        for found in trouble.explanation.found
    ]


def _started(description: Description, run_id: str, resumed: int | None, rank: Rank) -> RunStarted:
    return RunStarted(
        resumed_from_update=resumed,
        run_id=run_id,
        name=description.name,
        task=description.task,
        seed=description.seed,
        device=description.device,
        threads=torch.get_num_threads(),
        episodes=0,
        steps=0,
        environments=0,
        heads={head.name: [] for head in description.heads},
        slots=[],
        blueprints=[],
        host_parameters=0,
        config={**description.config, "python": platform.python_version()},
        pid=os.getpid(),
        process_start_time=process_start_time(os.getpid()) or time.time(),
        esper_version=VERSION,
        torch_version=str(torch.__version__),
        library=library_version(description.library),
        head_kinds={head.name: head.kind for head in description.heads},
        rank=rank.rank,
        world_size=rank.world_size,
        machine=socket.gethostname(),
    )


def _payload(record: UpdateRecord) -> PPOUpdatePayload:
    sightings = _joined(seen for trouble in record.troubles for seen in sightings_of(trouble))
    whole = record.ended - record.began
    acting, learning = None, record.update_seconds
    if not record.is_whole:
        learning = None  # the times of an interrupted update are not meaningful
    elif learning is None:
        learning = whole
    else:
        acting = whole - learning
    known: dict[str, Any] = {
        _FIELDS[short]: value
        for name, value in record.figures.items()
        if (short := name.rpartition("/")[2].lower()) in _FIELDS
    }
    return PPOUpdatePayload(
        update=record.number,
        episodes_done=0,
        rollout_seconds=acting,
        update_seconds=learning,
        minibatches=record.steps,
        minibatches_skipped=record.skipped,
        minibatches_stopped=0,
        gradient_norm=record.norm_sum / record.norms if record.norms else None,
        learning_rate=record.learning_rate,
        head_inf_detected={seen.head: True for seen in sightings if seen.kind != "nan"},
        head_nan_detected={seen.head: True for seen in sightings if seen.kind == "nan"},
        head_nonfinite=sightings,
        head_gradient_norm=dict(record.owner_norms),
        logged=dict(record.figures),
        still_updates=record.still_updates,
        **known,
    )


def _origin(origin: Origin, trouble: Trouble) -> IncidentOrigin:
    operation = origin.operation
    return IncidentOrigin(
        operation=operation.name,
        phase=operation.phase,
        cause=origin.cause,
        module=operation.module,
        file=operation.place.file,
        line=operation.place.line,
        function=trouble.explanation.function,
        code=operation.place.code,
        loop=trouble.explanation.line,
        counters=trouble.explanation.counters,
    )


def _joined(sightings: Iterable[NonfiniteSighting]) -> list[NonfiniteSighting]:
    """Return sightings in order, with equal ones merged into one with a count."""
    found: dict[object, NonfiniteSighting] = {}
    for seen in sightings:
        kind = (seen.head, seen.quantity, seen.kind, seen.part, seen.phase)
        known = found.get(kind)
        found[kind] = (
            seen
            if known is None
            else replace(known, count=known.count + 1, last_minibatch=seen.minibatch)
        )
    return list(found.values())


def _gpu_load() -> GpuLoad | None:
    from esper.simic.training.process.gpu_load import gpu_load

    return gpu_load()
