"""What every search is: steps that a thread takes, and a result that is handed over by value."""

from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

Line = TypeVar("Line", covariant=True)

#: Lines that a search keeps; of more, the newest.
LINES_FOUND: Final = 2_000


@dataclass(frozen=True)
class SearchResult(Generic[Line]):
    """How far a search is."""

    lines: tuple[Line, ...] = ()  # oldest first
    is_over: bool = False  # it goes no further
    is_whole: bool = False  # because everything was searched
    reached: str = ""  # how far back it is: "back to update 12"
    error: str | None = None  # one sentence, where it ended for what could not be read


class Search(Protocol[Line]):
    """Is stepped through from one thread at a time, until its result is over."""

    def step(self) -> SearchResult[Line]:
        """Search a bounded amount further, and return how far that is."""
