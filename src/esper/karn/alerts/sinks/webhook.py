"""A webhook: JSON of Esper's own form, or the forms of Slack and Discord."""

import json
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from esper.karn.alerts.messages import Message
from esper.karn.alerts.sinks.post import post
from esper.karn.text.figures import cut

#: Forms of the body.
SHAPES: Final = ("json", "slack", "discord")
_SLACK_HOSTS: Final = ("hooks.slack.com", "hooks.slack-gov.com")
_DISCORD_HOSTS: Final = ("discord.com", "discordapp.com", "canary.discord.com", "ptb.discord.com")
#: Discord refuses longer ones; Slack cuts them.
_LONGEST_TEXT: Final = {"slack": 3_500, "discord": 2_000}


def shape_of(url: str) -> str:
    """Return the form of the body that a URL expects, from its host."""
    host = urlsplit(url).hostname or ""
    if host in _SLACK_HOSTS:
        return "slack"
    return "discord" if host in _DISCORD_HOSTS else "json"


@dataclass(frozen=True)
class WebhookSink:
    """Sends each message in a POST request.

    Attributes:
        id: identifies it in records.
        name: names it in output.
        url: where to; a secret.
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
    # A run's name must not be able to mention everyone.
    return {"content": cut(text, _LONGEST_TEXT[shape]), "allowed_mentions": {"parse": []}}
