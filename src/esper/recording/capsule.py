"""Capsules of watched runs: the state needed to repeat an incident in another process.

A capsule contains only tensors and plain values, and is read with `weights_only=True`.
"""

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec
import torch
from torch import Tensor

from esper.leyline.errors import EsperError
from esper.leyline.telemetry import IncidentOrigin, IncidentRecorded, NonfiniteSighting
from esper.leyline.version import VERSION
from esper.simic.replay.incidents import (
    WATCHED_FORMAT,
    IncidentError,
    IncidentLedger,
    sighting_fields,
)
from esper.simic.torch_files import compacted
from esper.watching.recorder import Trouble

#: Maximum number of capsules that show nothing new, and limit in bytes of all capsules together.
KEPT: Final = 8
KEPT_BYTES: Final = 256 << 20
#: Maximum size of a capsule's tensors, in bytes; a larger capsule is not written.
LARGEST: Final = 256 << 20
#: Distributions whose versions are recorded if they are installed.
_LIBRARIES: Final = ("torch", "numpy", "gymnasium", "stable-baselines3", "sb3-contrib")


@dataclass(frozen=True)
class WatchedCapsule:
    """The state before an incident of a watched run.

    Attributes:
        update: number of the update, counted from 1.
        minibatch: the minibatch with the non-finite value, counted from 1; 0 while acting.
        phase: "acting" or "update".
        rebuilder: name of the method that repeats the update; empty if it cannot be repeated.
        reason: sentence that says why it cannot be repeated; empty if it can.
        plan: plain values from which the rebuilder creates models and settings.
        start: weights, optimizer states and random generator states (`StartState.values`).
        data: the update's training data, tensors by name.
        on_nonfinite: the watch's setting.
        origin: fields of the `IncidentOrigin` found during training; empty if none was found.
        sightings: fields of each `NonfiniteSighting`, causes first.
        versions: versions of esper, python and libraries.
        threads: number of PyTorch threads.
        device: the model's device.
    """

    format: ClassVar[str] = WATCHED_FORMAT
    update: int
    minibatch: int
    phase: str
    rebuilder: str
    reason: str
    plan: dict[str, Any]
    start: dict[str, Any]
    data: dict[str, Any]
    on_nonfinite: str
    origin: dict[str, Any]
    sightings: list[dict[str, Any]]
    versions: dict[str, str]
    threads: int
    device: str

    @property
    def why_not_repeated(self) -> str:
        """The reason why a replay is not possible, as text; empty if it is possible."""
        return "" if self.rebuilder else self.reason or "the capsule does not say how to repeat it"


class CapsuleTooLargeError(EsperError):
    """A capsule would take more than `LARGEST` bytes."""


@dataclass(frozen=True)
class Contents:
    """The part of a capsule that depends on the library.

    Attributes:
        rebuilder, reason, plan, start, data: see `WatchedCapsule`.
        device: the model's device.
        on_nonfinite: the watch's setting.
    """

    rebuilder: str
    reason: str
    plan: dict[str, Any]
    start: dict[str, Any]
    data: dict[str, Any]
    device: str
    on_nonfinite: str


class CapsuleKeeper:
    """Writes the capsules of a watched run, with limits on their number and size.

    Args:
        run: the run's directory.
        contents_of: returns the library's state before an incident.
    """

    def __init__(self, run: Path, contents_of: Callable[[Trouble], Contents]) -> None:
        self._ledger = IncidentLedger(run, KEPT, KEPT_BYTES, has_options=False)
        self._contents_of = contents_of

    def record(
        self,
        trouble: Trouble,
        number: int,
        sightings: list[NonfiniteSighting],
        origin: IncidentOrigin | None,
    ) -> IncidentRecorded:
        """Write the capsule of incident `number`; return the incident's event.

        Errors are not raised; the event then has a reason instead of a capsule.
        """
        self._ledger.number = number - 1
        try:
            capsule = _capsule(trouble, self._contents_of(trouble), sightings, origin)
            written = compacted([capsule.start, capsule.data])
            if sum(one.nbytes for one in _tensors(written)) > LARGEST:
                raise CapsuleTooLargeError
            return self._ledger.record(capsule, sightings)
        except CapsuleTooLargeError:
            reason = f"it would take more than {LARGEST >> 20} MiB"
        except Exception as error:  # noqa: BLE001 - the incident is recorded without a capsule
            reason = f"it could not be created: {type(error).__name__}: {error}"
        return IncidentRecorded(
            update=trouble.update, number=number, path="", size=0, reason=reason
        )


def watched_capsule_of(values: dict[str, Any], folder: Path) -> WatchedCapsule:
    """Return the capsule with these values, after checking them.

    Raises:
        IncidentError: a value is missing, unknown, or of the wrong type.
    """
    expected = {field.name: field.type for field in fields(WatchedCapsule)}
    values = {name: value for name, value in values.items() if name != "format"}
    if values.keys() != expected.keys():
        wrong = min(map(str, values.keys() ^ expected.keys()))
        raise IncidentError(f"the capsule in {folder} has a missing or unknown part: {wrong}")
    for name, value in values.items():
        kind = str(expected[name]).partition("[")[0].removeprefix("<class '").removesuffix("'>")
        if type(value).__name__ != kind:
            raise IncidentError(f"the capsule in {folder} is damaged: its {name} must be a {kind}")
    try:
        msgspec.convert(values["sightings"], list[NonfiniteSighting])
        msgspec.convert(values["versions"], dict[str, str])
    except msgspec.ValidationError as error:
        raise IncidentError(f"the capsule in {folder} is damaged: {error}") from None
    return WatchedCapsule(**values)


def _capsule(
    trouble: Trouble,
    contents: Contents,
    sightings: list[NonfiniteSighting],
    origin: IncidentOrigin | None,
) -> WatchedCapsule:
    return WatchedCapsule(
        update=trouble.update,
        minibatch=trouble.minibatch,
        phase=trouble.phase,
        rebuilder=contents.rebuilder,
        reason=contents.reason,
        plan=contents.plan,
        start=contents.start,
        data=contents.data,
        on_nonfinite=contents.on_nonfinite,
        origin={} if origin is None else msgspec.structs.asdict(origin),
        sightings=sighting_fields(sightings),
        versions=versions(),
        threads=torch.get_num_threads(),
        device=contents.device,
    )


def versions() -> dict[str, str]:
    """Return the versions of esper, python and the installed libraries, by name."""
    found = {"esper": VERSION, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = str(torch.__version__) if name == "torch" else version(name)
        except PackageNotFoundError:
            continue
    return found


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (dict, list, tuple)):
        for part in values.values() if isinstance(values, dict) else values:
            yield from _tensors(part)
