"""Drills: a real Inf or NaN, planted into one tensor of one head in one update, on request.

The value is where a real fault would put it, so that detection, payload, store, aggregator and
lights work exactly as for a real fault. `esper.simic.agent.drill_hook` plants it.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from esper.leyline.heads import HEAD_NAMES
from esper.leyline.text.suggestions import did_you_mean
from esper.simic.config import ConfigError, TrainingConfig

DRILL_QUANTITIES = ("logits", "log_prob")
DRILL_VALUES = {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}
_FORM = re.compile(r"(?P<head>[^.:@]+)(\.(?P<quantity>[^:@]+))?:(?P<kind>[^@]+)@(?P<update>.+)")


@dataclass(frozen=True)
class Injection:
    """One value to plant.

    Attributes:
        head: name of a head.
        quantity: one of DRILL_QUANTITIES.
        kind: a key of DRILL_VALUES.
        update: update in which it is planted, counted from 1.
    """

    head: str
    quantity: str
    kind: str
    update: int

    def __str__(self) -> str:
        return f"{self.head}.{self.quantity}:{self.kind}@{self.update}"


def parse_injection(text: str, heads: Sequence[str] = HEAD_NAMES) -> Injection:
    """Return the injection that a text `HEAD[.QUANTITY]:KIND@UPDATE` describes.

    Raises:
        ConfigError: the text has another form, or a part of it is unknown.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"inject takes HEAD[.QUANTITY]:KIND@UPDATE, for example op:inf@2, not {text!r}",
            "inject",
        )
    head, quantity = match["head"], match["quantity"] or DRILL_QUANTITIES[0]
    for value, known, what in (
        (head, heads, "a head"),
        (quantity, DRILL_QUANTITIES, "a quantity"),
        (match["kind"], tuple(DRILL_VALUES), "a kind"),
    ):
        if value not in known:
            raise ConfigError(
                f"inject {text!r}: {value!r} is not {what}; it must be one of {', '.join(known)}"
                f"{did_you_mean(value, known)}",
                "inject",
            )
    if not match["update"].isascii() or not match["update"].isdigit() or int(match["update"]) < 1:
        raise ConfigError(f"inject {text!r}: the update must be a whole number from 1", "inject")
    return Injection(head, quantity, match["kind"], int(match["update"]))


def scheduled(config: TrainingConfig) -> list[Injection]:
    """Return the drills of a run.

    Raises:
        ConfigError: a drill has the wrong form, or is after the run's last update.
    """
    drills = [parse_injection(text) for text in config.inject]
    last_update = math.ceil(config.episodes / config.num_envs)
    for drill in drills:
        if drill.update > last_update:
            raise ConfigError(
                f"inject {drill}: this run ends with update {last_update} ({config.episodes} "
                f"episodes, {config.num_envs} at a time); inject at an earlier update, or train "
                "more episodes",
                "inject",
            )
    return drills
