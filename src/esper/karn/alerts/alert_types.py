"""The `Alert` struct and the alert kinds."""

from typing import Final

import msgspec

#: Alert kinds with their meaning, as shown by `--help`.
ALERT_KINDS: Final = {
    "light": "a light came on",
    "escalation": "the first update with skipped minibatches, or the first rollback",
    "halt": "non-finite values halted the run",
    "died": "the process is gone, or an error ended the run",
    "stalled": "no update for --stalled-after",
    "finished": "the run finished or was stopped by the user",
    "trouble": "the store lost events, is damaged or cannot be read",
}
#: Alert kinds that are sent by default.
DEFAULT_KINDS: Final = tuple(kind for kind in ALERT_KINDS if kind != "finished")


class Alert(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event in a run; sent once to each sink.

    Attributes:
        key: unique key within the run, such as "light:op:inf".
        kind: one of `ALERT_KINDS`.
        run: the run's id.
        path: absolute path of the run's directory.
        sentence: what happened, without the run's name.
        time: when it happened, in seconds since the epoch; None if unknown.
        past: whether it happened before the alert process started.
        resolved: whether an earlier alert has ended, such as a stall after which updates continue.
        head: name of the head or group of a light; "training" if no weight moves.
        light: "inf", "nan" or "stalled".
        quantity: name of the non-finite quantity, such as "logits".
        update: the update in which it happened, counted from 1.
        incident: number of that update's incident.
        operation: first operation with a non-finite result, such as "aten.exp.default".
        origin: one sentence on where the non-finite value began, or why that is unknown.
        planted: whether a drill is the only cause.
        status: status of the run when the alert was created, such as "LIVE".
        command: a shell command that shows more.
    """

    key: str
    kind: str
    run: str
    path: str
    sentence: str
    time: float | None = None
    past: bool = False
    resolved: bool = False
    head: str = ""
    light: str = ""
    quantity: str = ""
    update: int | None = None
    incident: int | None = None
    operation: str = ""
    origin: str = ""
    planted: bool = False
    status: str = ""
    command: str = ""
