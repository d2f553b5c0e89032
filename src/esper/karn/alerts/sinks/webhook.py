"""Sink that posts to a webhook: Esper's JSON, or the formats of Slack and Discord."""

import json
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from esper.karn.alerts.messages import Message
from esper.karn.alerts.sinks.post import post
from esper.karn.text.figures import cut

#: Formats of the request body.
SHAPES: Final = ("json", "slack", "discord")
_SLACK_HOSTS: Final = ("hooks.slack.com", "hooks.slack-gov.com")
_DISCORD_HOSTS: Final = ("discord.com", "discordapp.com", "canary.discord.com", "ptb.discord.com")
#: Discord rejects longer texts; Slack truncates them.
_LONGEST_TEXT: Final = {"slack": 3_500, "discord": 2_000}


def shape_of(url: str) -> str:
    """Return the body format that a URL expects, judged by its host."""
    host = urlsplit(url).hostname or ""
    if host in _SLACK_HOSTS:
        return "slack"
    return "discord" if host in _DISCORD_HOSTS else "json"


@dataclass(frozen=True)
class WebhookSink:
    """Sends each message in a POST request.

    Attributes:
        id: id in alert records.
        name: display name.
        url: the destination; secret.
        shape: one of `SHAPES`.
    """

    id: str
    name: str
    url: str
    shape: str

    def send(self, message: Message) -> str:
        """Send a message; see `Sink`."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": message.id}
        return post(self.url, json.dumps(_body(message, self.shape)).encode(), headers)


def _body(message: Message, shape: str) -> dict[str, Any]:
    if shape == "json":
        return message.as_json()
    text = f"{message.title}\n{message.text}"
    if shape == "slack":
        for sign, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(sign, written)
        return {"text": cut(text, _LONGEST_TEXT[shape])}
    # A run's name must not mention everyone in the channel.
    return {"content": cut(text, _LONGEST_TEXT[shape]), "allowed_mentions": {"parse": []}}
