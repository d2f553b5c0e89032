"""Messages: several alerts with a title, a text and a JSON form."""

import socket
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import msgspec

from esper.karn.alerts.alert_types import Alert
from esper.karn.text.figures import cut
from esper.leyline.text.plain_text import printable_line
from esper.leyline.text.plurals import counted

#: Version of the JSON form; fields are only ever added.
FORM_VERSION: Final = 1
#: Maximum number of alerts in the text and in the JSON form.
_ALERTS_IN_TEXT: Final = 20
_ALERTS_IN_JSON: Final = 500
#: Maximum length of the title, which is the subject of mails.
_LONGEST_TITLE: Final = 160


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message for a sink.

    Attributes:
        id: unique id, which stays the same when the message is sent again.
        alerts: at least one alert.
        is_drill: whether the message is a test by `esper alert --test`.
    """

    id: str
    alerts: tuple[Alert, ...]
    is_drill: bool = False

    @property
    def title(self) -> str:
        """One line, such as "ant: op went NaN in logits, update 2"."""
        first = self.alerts[0]
        others = len(self.alerts) - 1
        runs = len({alert.path for alert in self.alerts})
        # The part after "; " is an explanation, shown in the text only.
        title = f"{first.run}: {first.sentence.partition('; ')[0]}"
        if runs > 1:
            kinds = Counter(alert.kind for alert in self.alerts)
            words = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
            title = f"{counted(others + 1, 'alert')} in {runs} runs ({words}); {title}"
        elif others:
            title += f" (and {others} more)"
        marks = [
            word
            for word, is_so in (
                ("drill", self.is_drill or _is_drill(self.alerts)),
                ("past", self.is_past),
            )
            if is_so
        ]
        marked = f"[{', '.join(marks)}] {title}" if marks else title
        return cut(printable_line(marked), _LONGEST_TITLE)

    @property
    def is_past(self) -> bool:
        """Whether all alerts happened before the alert process started."""
        return all(alert.past for alert in self.alerts)

    @property
    def text(self) -> str:
        """The alerts as lines of text, grouped by run."""
        lines: list[str] = []
        shown = self.alerts[:_ALERTS_IN_TEXT]
        for run, found in groupby(shown, key=lambda alert: alert.run):
            alerts = list(found)
            folder = str(Path(alerts[0].path).parent)
            lines.append(f"{run} on {socket.gethostname()}, {folder}" if alerts[0].path else run)
            command = ""
            for alert in alerts:
                lines += _lines_of(alert)
                command = command or alert.command
            lines += [f"  more: {command}"] if command else []
        left_out = len(self.alerts) - len(shown)
        lines += [f"and {left_out} more"] if left_out else []
        return "\n".join(map(printable_line, lines))

    def as_json(self) -> dict[str, Any]:
        """Return the message as a JSON-compatible dict."""
        shown = self.alerts[:_ALERTS_IN_JSON]
        return {
            "version": FORM_VERSION,
            "id": self.id,
            "drill": self.is_drill,
            "past": self.is_past,
            "title": self.title,
            "text": self.text,
            "machine": socket.gethostname(),
            "alerts": [msgspec.to_builtins(alert) for alert in shown],
            "alerts_left_out": len(self.alerts) - len(shown),
        }


def _clock(at: float | None) -> str:
    """Return a local time followed by a space; empty if it is unknown or out of range."""
    if at is None:
        return ""
    try:
        return time.strftime("%d %b %H:%M ", time.localtime(at))
    except (ValueError, OverflowError, OSError):  # a damaged record can have any number
        return ""


def _is_drill(alerts: Sequence[Alert]) -> bool:
    """Return whether drills are the only cause; escalations are attributed to the lights."""
    lights = [alert.planted for alert in alerts if alert.kind == "light"]
    return bool(lights) and all(lights) and all(e.kind in ("light", "escalation") for e in alerts)


def _lines_of(alert: Alert) -> list[str]:
    marks = "".join(
        f", {word}" for word, is_so in (("past", alert.past), ("resolved", alert.resolved)) if is_so
    )
    lines = [f"  {_clock(alert.time)}{alert.kind}{marks}: {alert.sentence}"]
    return [*lines, f"    {alert.origin}"] if alert.origin else lines


def new_message_id() -> str:
    """Return a new unique message id."""
    return uuid.uuid4().hex


def message_of(message_id: str, alerts: Sequence[Alert]) -> Message:
    """Return a message with these alerts, grouped by run."""
    order = {path: place for place, path in enumerate(dict.fromkeys(one.path for one in alerts))}
    return Message(id=message_id, alerts=tuple(sorted(alerts, key=lambda one: order[one.path])))


def drill_message() -> Message:
    """Return the test message of `esper alert --test`."""
    alert = Alert(
        key="drill",
        kind="light",
        run="drill",
        path="",
        sentence="test message of `esper alert --test`; nothing happened",
        time=time.time(),
        planted=True,
    )
    return Message(id=new_message_id(), alerts=(alert,), is_drill=True)
