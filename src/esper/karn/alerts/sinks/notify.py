"""Apprise: mail, chats and phones, more than 100 services by one URL each."""

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from esper.karn.alerts.messages import Message
from esper.karn.alerts.sinks.sink import SinkError
from esper.leyline.errors import EsperError


class NotifyUrlError(EsperError, ValueError):
    """Apprise is not installed, or does not know such a URL."""


@dataclass(frozen=True)
class NotifySink:
    """Sends each message by apprise.

    Attributes:
        id: identifies it in records.
        name: names it in output.
        url: as https://appriseit.com/services describes; a secret.
    """

    id: str
    name: str
    url: str

    @cached_property
    def _service(self) -> Any:
        # Its log has URLs.
        logging.getLogger("apprise").addHandler(logging.NullHandler())
        logging.getLogger("apprise").propagate = False
        try:
            import apprise
        except ImportError:
            raise NotifyUrlError(
                "--notify needs apprise: install Esper with the extra `notify`"
            ) from None
        service = apprise.Apprise()
        if not service.add(self.url):
            raise NotifyUrlError(f"apprise does not know the URL of {self.name}")
        return service

    def check(self) -> None:
        """Check that apprise knows the URL.

        Raises:
            NotifyUrlError: it does not, or is not installed.
        """
        _ = self._service

    def send(self, message: Message) -> str:
        """Send a message; see `Sink`."""
        kind = "info" if all(edge.resolved for edge in message.edges) else "failure"
        try:
            is_sent = self._service.notify(body=message.text, title=message.title, notify_type=kind)
        except Exception as error:  # noqa: BLE001  (its many services raise what they like)
            raise SinkError(f"apprise failed ({type(error).__name__})") from None
        if not is_sent:
            raise SinkError("the service did not accept it")
        return "sent"
