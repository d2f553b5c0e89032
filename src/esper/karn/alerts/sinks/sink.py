"""What all sinks have in common."""

from typing import Protocol

from esper.karn.alerts.messages import Message
from esper.leyline.errors import EsperError


class SinkError(EsperError):
    """A message was not accepted; one sentence without secrets.

    Attributes:
        retry_after: seconds to wait at least before the next attempt, if the receiver said so.
    """

    def __init__(self, sentence: str, retry_after: float = 0.0) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class Sink(Protocol):
    """One way out."""

    @property
    def id(self) -> str:
        """Identifies the sink in records; does not reveal its secret."""

    @property
    def name(self) -> str:
        """Names the sink in output, without its secret."""

    def send(self, message: Message) -> str:
        """Send a message; return a few words on its receipt, such as "HTTP 200".

        Raises:
            SinkError: it was not accepted.
        """
