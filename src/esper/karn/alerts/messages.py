"""Several edges as one message: a title, a text, and one JSON object."""

import socket
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import msgspec

from esper.karn.alerts.edges import Edge
from esper.karn.text.figures import cut
from esper.leyline.text.plain_text import printable_line
from esper.leyline.text.plurals import counted

#: Version of the JSON form; fields are only ever added.
FORM_VERSION: Final = 1
#: Most edges in the text, and in the JSON form.
_EDGES_IN_TEXT: Final = 20
_EDGES_IN_JSON: Final = 500
#: Longest title: it is the subject of mails.
_LONGEST_TITLE: Final = 160


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What a sink sends.

    Attributes:
        id: the same each time the message is sent.
        edges: what happened, at least one.
        is_drill: whether `esper alert --test` made it.
    """

    id: str
    edges: tuple[Edge, ...]
    is_drill: bool = False

    @property
    def title(self) -> str:
        """One line, such as "ant: op went NaN in logits, update 2"."""
        first = self.edges[0]
        others = len(self.edges) - 1
        runs = len({edge.path for edge in self.edges})
        # What follows is an explanation, for the text.
        title = f"{first.run}: {first.sentence.partition('; ')[0]}"
        if runs > 1:
            kinds = Counter(edge.kind for edge in self.edges)
            words = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
            title = f"{counted(others + 1, 'alert')} in {runs} runs ({words}); {title}"
        elif others:
            title += f" (and {others} more)"
        marks = [
            word
            for word, is_so in (
                ("drill", self.is_drill or _is_drill(self.edges)),
                ("past", self.is_past),
            )
            if is_so
        ]
        marked = f"[{', '.join(marks)}] {title}" if marks else title
        return cut(printable_line(marked), _LONGEST_TITLE)

    @property
    def is_past(self) -> bool:
        """Whether all of it happened before the alert process started."""
        return all(edge.past for edge in self.edges)

    @property
    def text(self) -> str:
        """The edges of each run on lines of their own."""
        lines: list[str] = []
        shown = self.edges[:_EDGES_IN_TEXT]
        for run, found in groupby(shown, key=lambda edge: edge.run):
            edges = list(found)
            folder = str(Path(edges[0].path).parent)
            lines.append(f"{run} on {socket.gethostname()}, {folder}" if edges[0].path else run)
            command = ""
            for edge in edges:
                lines += _lines_of(edge)
                command = command or edge.command
            lines += [f"  more: {command}"] if command else []
        left_out = len(self.edges) - len(shown)
        lines += [f"and {left_out} more"] if left_out else []
        return "\n".join(map(printable_line, lines))

    def as_json(self) -> dict[str, Any]:
        """Return the message as plain values."""
        shown = self.edges[:_EDGES_IN_JSON]
        return {
            "version": FORM_VERSION,
            "id": self.id,
            "drill": self.is_drill,
            "past": self.is_past,
            "title": self.title,
            "text": self.text,
            "machine": socket.gethostname(),
            "alerts": [msgspec.to_builtins(edge) for edge in shown],
            "alerts_left_out": len(self.edges) - len(shown),
        }


def _clock(at: float | None) -> str:
    """Return a local time, followed by a blank; empty if it is unknown or impossible."""
    if at is None:
        return ""
    try:
        return time.strftime("%d %b %H:%M ", time.localtime(at))
    except (ValueError, OverflowError, OSError):  # a damaged record can have any number
        return ""


def _is_drill(edges: Sequence[Edge]) -> bool:
    """Return whether drills alone caused what happened; an escalation follows from its lights."""
    lights = [edge.planted for edge in edges if edge.kind == "light"]
    return bool(lights) and all(lights) and all(e.kind in ("light", "escalation") for e in edges)


def _lines_of(edge: Edge) -> list[str]:
    marks = "".join(
        f", {word}" for word, is_so in (("past", edge.past), ("resolved", edge.resolved)) if is_so
    )
    lines = [f"  {_clock(edge.time)}{edge.kind}{marks}: {edge.sentence}"]
    return [*lines, f"    {edge.origin}"] if edge.origin else lines


def new_message_id() -> str:
    """Return an id that no other message has."""
    return uuid.uuid4().hex


def message_of(message_id: str, edges: Sequence[Edge]) -> Message:
    """Return a message of edges, with those of one run next to each other."""
    order = {path: place for place, path in enumerate(dict.fromkeys(one.path for one in edges))}
    return Message(id=message_id, edges=tuple(sorted(edges, key=lambda one: order[one.path])))


def drill_message() -> Message:
    """Return the message of `esper alert --test`."""
    edge = Edge(
        key="drill",
        kind="light",
        run="drill",
        path="",
        sentence="this is a test of `esper alert --test`, nothing happened",
        time=time.time(),
        planted=True,
    )
    return Message(id=new_message_id(), edges=(edge,), is_drill=True)
