"""The capsule of a watched run's incident: what is needed to repeat it in another process.

It holds tensors and plain values only, and is read with `weights_only=True`.
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
from esper.watching.recorder import Trouble

#: Capsules that show nothing new which are kept, and bytes of all capsules above which none is.
KEPT: Final = 8
KEPT_BYTES: Final = 256 << 20
#: Bytes of tensors above which a capsule is not written.
LARGEST: Final = 256 << 20
#: Distributions whose versions are recorded, where they are installed.
_LIBRARIES: Final = ("torch", "numpy", "gymnasium", "stable-baselines3", "sb3-contrib")


@dataclass(frozen=True)
class WatchedCapsule:
    """What an incident of a watched run started from.

    Attributes:
        update: number of the update, counted from 1.
        minibatch: in which it was seen, counted from 1; 0 while acting.
        phase: "acting" or "update".
        rebuilder: how the update is repeated, a name; empty where it cannot be.
        reason: why it cannot be repeated, a sentence.
        plan: plain values from which the rebuilder makes models and settings.
        start: weights, states of optimizers and random generators (`StartState.values`).
        data: tensors that the update learns from, by name.
        on_nonfinite: of the watch.
        origin: the fields of the `IncidentOrigin` that was found at once; empty if none was.
        sightings: the fields of each `NonfiniteSighting`, causes first.
        versions: versions of esper, python and libraries.
        threads: number of PyTorch threads.
        device: on which the model was.
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
        """Why a replay cannot repeat it, a sentence; empty if it can."""
        return "" if self.rebuilder else self.reason or "it says no way to repeat it"


class CapsuleTooLargeError(EsperError):
    """A capsule would take more than `LARGEST` bytes."""


@dataclass(frozen=True)
class Contents:
    """The part of a capsule that depends on the library.

    Attributes:
        rebuilder, reason, plan, start, data: as of `WatchedCapsule`.
        device: on which the model is.
        on_nonfinite: of the watch.
    """

    rebuilder: str
    reason: str
    plan: dict[str, Any]
    start: dict[str, Any]
    data: dict[str, Any]
    device: str
    on_nonfinite: str


class CapsuleKeeper:
    """Writes the capsules of a watched run, within limits of number and size.

    Args:
        run: the run's directory.
        contents_of: returns what the library knows of the state before an incident.
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
        """Write the capsule of incident `number`; return its event, with a reason if there is none.

        An error is not raised.
        """
        self._ledger.number = number - 1
        try:
            capsule = _capsule(trouble, self._contents_of(trouble), sightings, origin)
            if sum(one.nbytes for one in _tensors([capsule.start, capsule.data])) > LARGEST:
                raise CapsuleTooLargeError
            return self._ledger.record(capsule, sightings)
        except CapsuleTooLargeError:
            reason = f"it would take more than {LARGEST >> 20} MiB"
        except Exception as error:  # noqa: BLE001 - the incident is recorded without a capsule
            reason = f"it could not be made: {type(error).__name__}: {error}"
        return IncidentRecorded(
            update=trouble.update, number=number, path="", size=0, reason=reason
        )


def watched_capsule_of(values: dict[str, Any], folder: Path) -> WatchedCapsule:
    """Return the capsule with a content that was read.

    Raises:
        IncidentError: a part is missing, unknown, or not of its type.
    """
    expected = {field.name: field.type for field in fields(WatchedCapsule)}
    values = {name: value for name, value in values.items() if name != "format"}
    if values.keys() != expected.keys():
        wrong = min(map(str, values.keys() ^ expected.keys()))
        raise IncidentError(f"the capsule in {folder} lacks a part, or has an unknown one: {wrong}")
    for name, value in values.items():
        kind = str(expected[name]).partition("[")[0].removeprefix("<class '").removesuffix("'>")
        if type(value).__name__ != kind:
            raise IncidentError(f"the capsule in {folder} is not whole: its {name} is no {kind}")
    try:
        msgspec.convert(values["sightings"], list[NonfiniteSighting])
        msgspec.convert(values["versions"], dict[str, str])
    except msgspec.ValidationError as error:
        raise IncidentError(f"the capsule in {folder} is not whole: {error}") from None
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
    """Return the versions of esper, python and the libraries that are installed, by name."""
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
