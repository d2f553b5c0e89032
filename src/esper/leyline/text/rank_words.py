"""Ranks in sentences."""

from collections.abc import Collection
from typing import Final

_MOST_NAMED: Final = 8


def ranks_words(ranks: Collection[int]) -> str:
    """Return "rank 1", "ranks 1 and 3", or "ranks 0 to 7 and 12", at most 8 of them by number.

    Args:
        ranks: numbers of ranks, at least one.
    """
    spans: list[tuple[int, int]] = []
    for rank in sorted(set(ranks)):
        if spans and spans[-1][1] == rank - 1:
            spans[-1] = spans[-1][0], rank
        else:
            spans.append((rank, rank))
    parts: list[str] = []
    for first, last in spans:
        if last - first > 1:
            parts.append(f"{first} to {last}")
        else:
            parts += [str(rank) for rank in range(first, last + 1)]
    more = len(parts) - _MOST_NAMED
    if more > 1:
        parts = [*parts[:_MOST_NAMED], f"{more} more"]
    *before, last_part = parts
    numbers = f"{', '.join(before)} and {last_part}" if before else last_part
    return f"rank{'s' if len(set(ranks)) > 1 else ''} {numbers}"
