"""The interface of all sinks."""

from typing import Protocol

from esper.karn.alerts.messages import Message
from esper.leyline.errors import EsperError


class SinkError(EsperError):
    """A sink did not accept a message; the error message is one sentence without secrets.

    Attributes:
        retry_after: minimum seconds before the next attempt, as requested by the receiver.
    """

    def __init__(self, sentence: str, retry_after: float = 0.0) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class Sink(Protocol):
    """A destination of messages."""

    @property
    def id(self) -> str:
        """Id in alert records, without secrets."""

    @property
    def name(self) -> str:
        """Display name, without secrets."""

    def send(self, message: Message) -> str:
        """Send a message; return a short receipt such as "HTTP 200".

        Raises:
            SinkError: the message was not accepted.
        """
