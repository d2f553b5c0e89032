"""The exchange of sightings between ranks: encoded in messages of a fixed size, then merged."""

from collections.abc import Sequence
from typing import Final

import msgspec

from esper.leyline.telemetry import HOSTS, NonfiniteSighting

#: Size of the message with the sightings of one rank, in bytes. It must not depend on the content.
SLAB_BYTES: Final = 1 << 15
_LENGTH_BYTES: Final = 4
_MOST: Final = 4_096  # sightings tried for one slab

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[NonfiniteSighting])

Key = tuple[str, str, str, str, int | None]


def key_of(seen: NonfiniteSighting) -> Key:
    """Return a key that is equal for the same sighting in several ranks; hosts are distinct."""
    host = seen.host if seen.head == HOSTS else None
    return seen.head, seen.quantity, seen.kind, seen.phase, host


def encoded(sightings: Sequence[NonfiniteSighting]) -> bytes:
    """Return a slab with as many of the first sightings as fit into it.

    All sightings are in the store of their rank.
    """
    kept = list(sightings[:_MOST])
    while len(data := _encoder.encode(kept)) > SLAB_BYTES - _LENGTH_BYTES:
        kept = kept[: len(kept) * 3 // 4]
    head = len(data).to_bytes(_LENGTH_BYTES, "little")
    return (head + data).ljust(SLAB_BYTES, b"\0")


def decoded(slab: bytes) -> list[NonfiniteSighting]:
    """Return the sightings in a slab."""
    length = int.from_bytes(slab[:_LENGTH_BYTES], "little")
    sightings: list[NonfiniteSighting] = _decoder.decode(
        slab[_LENGTH_BYTES : _LENGTH_BYTES + length]
    )
    return sightings


def merged(by_rank: Sequence[Sequence[NonfiniteSighting]]) -> list[NonfiniteSighting]:
    """Return the sightings of all ranks; those with the same key become one, the earliest.

    Ranks that make the same update see the same values, so counts are not added: the largest is
    kept.

    Args:
        by_rank: the sightings of one update, by rank.
    """
    found: dict[Key, NonfiniteSighting] = {}
    for sightings in by_rank:
        for seen in sightings:
            known = found.setdefault(key_of(seen), seen)
            if known is not seen:
                found[key_of(seen)] = _joined(known, seen)
    return list(found.values())


def _joined(one: NonfiniteSighting, other: NonfiniteSighting) -> NonfiniteSighting:
    first = min(one, other, key=lambda seen: (seen.epoch, seen.minibatch, seen.step or 0))
    last = max((each.last_epoch, each.last_minibatch) for each in (one, other))
    return msgspec.structs.replace(
        first,
        count=max(one.count, other.count),
        last_epoch=last[0],
        last_minibatch=last[1],
        reproduced=one.reproduced or other.reproduced,
    )
