"""One thing to tell of a run."""

from typing import Final

import msgspec

#: Kinds of edges, with their meaning for the help.
EDGE_KINDS: Final = {
    "light": "a light came on",
    "escalation": "the first update with skipped minibatches, or the first rollback",
    "halt": "non-finite values halted the run",
    "died": "the process is gone, or an error ended the run",
    "stalled": "no update for a long time",
    "finished": "the run finished or was stopped by the user",
    "trouble": "the store lost events, is damaged or cannot be read",
}
#: Kinds that are told by default.
DEFAULT_KINDS: Final = tuple(kind for kind in EDGE_KINDS if kind != "finished")


class Edge(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened in a run; told once.

    Attributes:
        key: identifies it within its run, such as "light:op:inf".
        kind: one of `EDGE_KINDS`.
        run: the run's id.
        path: the run's directory, absolute.
        sentence: what happened, without the run.
        time: when it happened, in seconds since the epoch; None if unknown.
        past: whether it happened before the alert process started.
        resolved: whether it is the end of something told before: updates go on after a stall.
        head: name of the head or group of a light; "training" if no weight moves.
        light: "inf", "nan" or "stalled".
        quantity: what was not finite, such as "logits".
        update: the update in which it happened, counted from 1.
        incident: number of the incident of that update.
        operation: the operation in which it began, such as "aten.exp.default".
        origin: where it began, or why that is not known, in one sentence.
        planted: whether only a drill caused it.
        status: status of the run when it was seen, such as "LIVE".
        command: a command that shows more, ready to paste.
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
