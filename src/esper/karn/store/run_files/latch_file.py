"""The second copy of a run's latches: `latches.jsonl`, appended and synced next to the store.

The store can be locked, read-only, deleted, replaced or damaged. So the first sighting of each kind
of non-finite value is also written here, before its update is announced. The file also records
which store the run was written to and when it could not be written, which shows readers what is
missing. Each line is one JSON object that ends with its own CRC-32.
"""

import errno
import os
import time
import uuid
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from esper.karn.store.run_files.line_files import damaged_lines_words, read_beginning
from esper.karn.store.sightings import (
    Source,
    moment_of,
    sightings_of,
    source_of,
    states_reproduction,
)
from esper.leyline.files.durable_files import sync_directory
from esper.leyline.telemetry import IncidentRecorded, NonfiniteSighting, PPOUpdatePayload
from esper.leyline.text.plurals import counted, plural
from esper.leyline.text.sighting_words import KIND_WORDS

LATCHES_NAME: Final = "latches.jsonl"
#: A file that reserves space, and is deleted for latches when the disk is full.
RESERVE_NAME: Final = "latches.reserve"
RESERVED_BYTES: Final = 1 << 16
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
#: Above this size only latches are written; there are at most a few hundred of them.
_STORE_RECORDS_BYTES: Final = 1 << 20
#: Maximum number of bytes that are read: no run writes more.
_MAX_BYTES: Final = 8 << 20
#: Longer than any line, since error texts are cut.
_LONGEST_LINE: Final = 1 << 14
_LONGEST_ERROR: Final = 500
_BEGINNING: Final = b'{"record":'
_CHECKSUM: Final = b',"crc32":"'


class Latched(msgspec.Struct, frozen=True, kw_only=True, tag="latch", tag_field="record"):
    """The first update in which a kind of non-finite value was seen in a quantity of a head."""

    time: float  # seconds since the epoch
    update: int
    sighting: NonfiniteSighting


class StoreOpened(msgspec.Struct, frozen=True, kw_only=True, tag="opened", tag_field="record"):
    """A writer opened the store."""

    time: float  # seconds since the epoch
    session: str  # identifies the writer
    store: str  # identifies the store: `store_id` of its table `meta`
    last_event: int  # id of the newest event in it; 0 for none


class StoreFailing(msgspec.Struct, frozen=True, kw_only=True, tag="failing", tag_field="record"):
    """The store cannot be written; events wait in the memory of the writer."""

    time: float  # seconds since the epoch
    session: str
    error: str


class StoreRecovered(
    msgspec.Struct, frozen=True, kw_only=True, tag="recovered", tag_field="record"
):
    """The waiting events are in the store."""

    time: float  # seconds since the epoch
    session: str
    updates_lost: int  # updates that this writer could not store so far


#: Source of a sighting, and whether the sighting states if it was reproduced.
_Key = tuple[Source, bool]
_Record = Latched | StoreOpened | StoreFailing | StoreRecovered
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Record).decode


@dataclass(frozen=True)
class LatchFile:
    """The content of `latches.jsonl`.

    Attributes:
        sightings: the latches, each with its update, in the order of the file.
        stores: ids of the stores that the run was written to, in the order of their first use.
        last_event: id of the newest event in the last store when it was opened.
        missing: why the store lacks updates, as one sentence; None if it is not known to.
        error: why the file or one of its lines cannot be read, as one sentence.
        is_there: whether the file exists.
    """

    sightings: tuple[tuple[int, NonfiniteSighting], ...] = ()
    stores: tuple[str, ...] = ()
    last_event: int = 0
    missing: str | None = None
    error: str | None = None
    is_there: bool = False


def read_latch_file(directory: Path) -> LatchFile:
    """Return the content of a run's latch file; never raises because of the file."""
    path = directory / LATCHES_NAME
    try:
        data = read_beginning(path, _MAX_BYTES)
    except OSError as error:
        return LatchFile(error=f"{path} cannot be read: {error.strerror}", is_there=True)
    if data is None:
        return LatchFile()
    records: list[_Record] = []
    damaged: list[int] = []
    # The text after the last line end is an append that was cut short and never acknowledged.
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        record = _record_of(line)
        if record is not None:
            records.append(record)
        elif line:
            damaged.append(number)
    return _folded(records, _damage(path, damaged) if damaged else None)


def _folded(records: Sequence[_Record], error: str | None) -> LatchFile:
    stores: dict[str, int] = {}  # id, and its newest event when it was last opened
    failing: dict[str, str] = {}  # session, and the error of a failure that has not ended
    updates_lost: dict[str, int] = {}  # by session
    for record in records:
        match record:
            case StoreOpened():
                stores[record.store] = record.last_event
            case StoreFailing():
                failing[record.session] = record.error
            case StoreRecovered():
                failing.pop(record.session, None)
                updates_lost[record.session] = record.updates_lost
    missing = None
    if failing:
        missing = f"the store could not be written ({next(reversed(failing.values()))})"
    elif lost := sum(updates_lost.values()):
        missing = f"{counted(lost, 'update')} {plural(lost, 'was', 'were')} not stored"
    return LatchFile(
        sightings=tuple((one.update, one.sighting) for one in records if isinstance(one, Latched)),
        stores=tuple(stores),
        last_event=next(reversed(stores.values()), 0),
        missing=missing,
        error=error,
        is_there=True,
    )


def _key_of(seen: NonfiniteSighting) -> _Key:
    return source_of(seen), states_reproduction(seen)


def _line_of(record: _Record) -> bytes:
    body = _encode(record)[:-1]
    return b'%s%s%08x"}\n' % (body, _CHECKSUM, zlib.crc32(body))


def _record_of(line: bytes) -> _Record | None:
    """Return the record of a line; None if the line is damaged."""
    body, mark, rest = line.rpartition(_CHECKSUM)
    if not mark or rest != b'%08x"}' % zlib.crc32(body):
        return None
    try:
        record: _Record = _decode(body + b"}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(record, Latched) and record.sighting.kind not in KIND_WORDS:
        return None
    return record


def _damage(path: Path, lines: Sequence[int]) -> str:
    return f"{path} is damaged in {damaged_lines_words(lines)}, which may have held a light"


class LatchWriter:
    """Appends to the latch file of a run. Not thread-safe: the caller holds a lock.

    Records that cannot be written are kept and written by a later call.

    Args:
        directory: the run's directory.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / LATCHES_NAME
        self._reserved = directory / RESERVE_NAME
        self._session = uuid.uuid4().hex[:12]
        found = read_latch_file(directory)
        # The first sighting; if it does not state reproduction, also the first that does.
        self._known: dict[_Key, tuple[int, NonfiniteSighting]] = {}
        for update, seen in found.sightings:
            self._learn(update, seen)
        self._waiting: list[_Record] = []
        self._is_there = found.is_there
        self._store: str | None = None  # the last one that a record was written of

    @property
    def is_whole(self) -> bool:
        """Whether all records are in the file."""
        return not self._waiting

    def sightings(self) -> list[tuple[int, NonfiniteSighting]]:
        """Return the known latches, each with its update."""
        return list(self._known.values())

    def note_update(self, payload: PPOUpdatePayload | IncidentRecorded) -> None:
        """Write the sightings of an update or an incident that are new in this run."""
        self.note_sightings((payload.update, seen) for seen in sightings_of(payload))

    def note_sightings(self, sightings: Iterable[tuple[int, NonfiniteSighting]]) -> None:
        """Write sightings that are not in the file yet; of several new ones, the earliest."""
        is_new = False
        for update, seen in sorted(sightings, key=lambda one: moment_of(*one)):
            if (added := self._learn(update, seen)) is not None:
                update, seen = added
                self._waiting.append(Latched(time=time.time(), update=update, sighting=seen))
                is_new = True
        if is_new:
            self.write()

    def note_store(self, store: str, last_event: int) -> None:
        """Write that a store was opened, once for each store."""
        if store != self._store:
            self._store = store
            self._reserve()
            self._note(
                StoreOpened(
                    time=time.time(), session=self._session, store=store, last_event=last_event
                )
            )

    def note_failure(self, error: str) -> None:
        """Write that the store cannot be written."""
        self._note(
            StoreFailing(time=time.time(), session=self._session, error=error[:_LONGEST_ERROR])
        )

    def note_recovery(self, updates_lost: int) -> None:
        """Write that the store is written again, and how many updates were lost."""
        self._note(
            StoreRecovered(time=time.time(), session=self._session, updates_lost=updates_lost)
        )

    def write(self) -> None:
        """Append and sync the waiting records; after an error they keep waiting."""
        with suppress(OSError):
            if self._is_there and not self._path.exists():
                self._is_there = False  # it was removed
                now = time.time()
                waiting = {
                    _key_of(one.sighting) for one in self._waiting if isinstance(one, Latched)
                }
                self._waiting[:0] = [
                    Latched(time=now, update=update, sighting=seen)
                    for key, (update, seen) in self._known.items()
                    if key not in waiting
                ]
            if self._waiting:
                lines = b"".join(map(_line_of, self._waiting))
                try:
                    self._append(lines)
                except OSError as error:
                    if error.errno not in _FULL:
                        raise
                    self._reserved.unlink()  # the space reserved for this
                    self._append(lines)
                self._waiting.clear()

    def _learn(self, update: int, seen: NonfiniteSighting) -> tuple[int, NonfiniteSighting] | None:
        """Return the sighting to write, with its update; None if it adds nothing.

        A sighting adds a light, the fact that it was reproduced, or that a real fault caused it.
        """
        key = source, is_stated = _key_of(seen)
        if (source, True) in self._known:
            key = source, True  # one that states nothing adds nothing
        known = self._known.get(key)
        if known is None:
            self._known[key] = update, seen
            return update, seen
        joined = msgspec.structs.replace(
            known[1],
            reproduced=known[1].reproduced or (is_stated and seen.reproduced),
            planted=known[1].planted and seen.planted,
        )
        self._known[key] = known[0], joined
        return None if joined == known[1] else self._known[key]

    def _reserve(self) -> None:
        """Reserve space for the latches of a run, in case the disk becomes full."""
        with suppress(OSError):
            if not self._reserved.exists() or self._reserved.stat().st_size < RESERVED_BYTES:
                with self._reserved.open("wb") as file:
                    file.write(bytes(RESERVED_BYTES))

    def _note(self, record: _Record) -> None:
        with suppress(OSError):
            if self._path.exists() and self._path.stat().st_size > _STORE_RECORDS_BYTES:
                return  # a store that keeps failing: the last failure is recorded
        self._waiting.append(record)
        self.write()

    def _append(self, lines: bytes) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            size = _end_of_lines(descriptor)
            try:
                if os.write(descriptor, lines) != len(lines):
                    raise OSError(0, "only a part was written")
                os.fsync(descriptor)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
        if not self._is_there:
            sync_directory(self._path.parent)
            self._is_there = True


def _end_of_lines(descriptor: int) -> int:
    """Make a file end with a complete line; return its size.

    A record that was cut short was never acknowledged and is removed. Other text is kept.
    """
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, _LONGEST_LINE, max(0, size - _LONGEST_LINE))
    _, _, torn = tail.rpartition(b"\n")
    if not torn:
        return size
    if torn.startswith(_BEGINNING[: len(torn)]):
        os.ftruncate(descriptor, size - len(torn))
        return size - len(torn)
    os.write(descriptor, b"\n")
    return size + 1
