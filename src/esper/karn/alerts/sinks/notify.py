"""Sink that sends mail, chat or phone messages through apprise (more than 100 services)."""

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from esper.karn.alerts.messages import Message
from esper.karn.alerts.sinks.sink import SinkError
from esper.leyline.errors import EsperError


class NotifyUrlError(EsperError, ValueError):
    """Apprise is not installed, or does not support the URL."""


@dataclass(frozen=True)
class NotifySink:
    """Sends each message through apprise.

    Attributes:
        id: id in alert records.
        name: display name.
        url: service URL as described at https://appriseit.com/services; secret.
    """

    id: str
    name: str
    url: str

    @cached_property
    def _service(self) -> Any:
        # Apprise writes URLs, which are secret, to its log.
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
            raise NotifyUrlError(f"apprise does not support the URL of {self.name}")
        return service

    def check(self) -> None:
        """Check that apprise supports the URL.

        Raises:
            NotifyUrlError: apprise is not installed, or does not support the URL.
        """
        _ = self._service

    def send(self, message: Message) -> str:
        """Send a message; see `Sink`."""
        kind = "info" if all(alert.resolved for alert in message.alerts) else "failure"
        try:
            is_sent = self._service.notify(body=message.text, title=message.title, notify_type=kind)
        except Exception as error:  # noqa: BLE001  (its services raise arbitrary exceptions)
            raise SinkError(f"apprise failed ({type(error).__name__})") from None
        if not is_sent:
            raise SinkError("the service did not accept the message")
        return "sent"
