"""The interface of searches: steps that a thread takes, and an immutable result."""

from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

Line = TypeVar("Line", covariant=True)

#: Most lines that a search keeps: the newest.
LINES_FOUND: Final = 2_000


@dataclass(frozen=True)
class SearchResult(Generic[Line]):
    """The progress or result of a search."""

    lines: tuple[Line, ...] = ()  # oldest first
    is_over: bool = False  # it has ended
    is_whole: bool = False  # everything was searched
    reached: str = ""  # how far back it has come: "back to update 12"
    error: str | None = None  # one sentence, if it ended because something could not be read


class Search(Protocol[Line]):
    """A search; `step` is called by one thread at a time until the result is over."""

    def step(self) -> SearchResult[Line]:
        """Search a bounded amount further, and return the progress."""
