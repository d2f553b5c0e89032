"""A value for each telemetry record, and what its widget shows of it."""

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np

from esper.karn.store.run_store import RunWriter
from esper.leyline.head_figures import HEAD_FIGURES
from esper.leyline.heads import HEAD_NAMES, Op, Stage
from esper.leyline.telemetry import (
    STALLED_UPDATES,
    IncidentRecorded,
    InterventionTaken,
    Notice,
    RunFinished,
    UnknownPayload,
)
from esper.recording.run_recorder import RunRecorder
from esper.tracing.operations import Operation, Place
from esper.tracing.origin import Origin
from esper.watching.checks.found import Found
from esper.watching.finding.explaining import Explanation
from esper.watching.model.heads import Head
from esper.watching.recorder import Trouble, UpdateRecord

HOSTS, SLOTS = 2, 3
OP = HEAD_NAMES.index("op")


LOG = math.log(0.4321)


STARTED = 1_001.0  # when the first event of a run below happened


@dataclass(frozen=True)
class Case:
    """What to emit for one record, and what must come of it."""

    value: Any  # in the snapshot
    shown: str  # on the widget, and not there without it
    update: dict[str, Any] = field(default_factory=dict)  # fields of UpdateFigures
    number: int = 1  # of the update
    start: dict[str, Any] = field(default_factory=dict)  # fields of RunStarted
    step: dict[str, np.ndarray] = field(default_factory=dict)  # keys of the environment's info
    seconds: float = 1.0  # that the step took
    scores: tuple[float, float] = (0.5, 0.5)
    reward: float = 0.25
    hosts_seconds: float | None = None  # of the episodes before the update
    first_episode: int = 1
    # What of the second host's decision is out of the ordinary: part of it, place in that, value.
    decided: dict[str, dict[Any, float]] = field(default_factory=dict)
    also: Callable[[RunWriter], None] | None = None
    capsules: tuple[int, ...] = ()  # numbers of incidents that lie on the disk
    afterwards: str = ""  # SQL, done to the finished store
    printed: str = ""  # by the run's process
    at: str | tuple[int, ...] = ()  # key or indices of the value at the snapshot's path
    read: Callable[[Any], Any] = lambda found: found  # what of it is the value
    # What a recorder of a watched run is given; None for a run of Esper's own agent.
    watched: Callable[[RunRecorder], None] | None = None
    heads: tuple[Head, ...] = (Head("action", "categorical", range(3)),)  # of a watched run
    library: str = "pytorch"  # that trains a watched run
    width: int = 200
    height: int = 40
    seconds_later: float = 10.0  # time of the reading, in seconds after the start of the run


def by_head(field: str) -> Case:
    return Case(4.321, "4.321", update={field: {"op": 4.321}}, at="op")


def figure(name: str, value: float, shown: str) -> Case:
    return Case(value, shown, update={name: value})


def at_start(name: str, value: Any, shown: str) -> Case:
    return Case(value, shown, start={name: value})


def of_host(name: str, value: float, shown: str) -> Case:
    dtype = np.int64 if isinstance(value, int) else np.float64
    return Case(value, shown, step={name: np.array([value, value], dtype)}, at=(1,))


def of_slot(name: str, value: float, shown: str, **others: Any) -> Case:
    """Return a case whose value is in the second slot of the second host."""
    arrays = {}
    for array_name, entry in {name: value, **others}.items():
        empty = -1 if array_name == "blueprint" else 0
        dtype = np.float64 if array_name == "alpha" else np.int64
        arrays[array_name] = np.full((HOSTS, SLOTS), empty, dtype)
        arrays[array_name][1, 1] = entry
    # Too low for the legend, which has all signs in it.
    return Case(value, shown, step=arrays, at=(1, 1), height=3)


def light(kind: str, head: str = "op", quantity: str = "logits", **more: Any) -> dict[str, Any]:
    """Return the fields of an update in which a head went non-finite."""
    latch = "nan" if kind == "nan" else "inf"
    seen = {"head": head, "quantity": quantity, "kind": kind, **more}
    return {f"head_{latch}_detected": {head: True}, "head_nonfinite": [seen]}


def intervened(action: str, shown: str) -> Case:
    """Return a case in which something was done about three updates."""
    taken = InterventionTaken(update=1, action=action, cause="op logits +inf", reason="why not")
    return Case(3, shown, also=lambda writer: [writer.emit(taken) for _ in range(3)])


def record_incidents(writer: RunWriter, path: str) -> None:
    for number in (1, 2, 3):
        writer.emit(IncidentRecorded(update=1, number=number, path=path, size=1, reason=""))


def under_fp16(name: str, value: float, shown: str) -> Case:
    return Case(value, shown, update={"loss_scale": 65_536.0, name: value})


def with_load(name: str, value: float, shown: str, **others: float) -> Case:
    """Return a case in which the last heartbeat reported the load of the machine."""
    values = ", ".join(f"{key} = {number}" for key, number in {name: value, **others}.items())
    return Case(value, shown, afterwards=f"UPDATE heartbeat SET {values}")


def lose_an_event(writer: RunWriter) -> None:
    writer.emit(RunFinished(status="finished", update=2**63, episodes_done=0))


def say_something_new(writer: RunWriter) -> None:
    writer.emit(UnknownPayload(kind="weather", data=b""))


#: Where something was seen before the first minibatch of the update.
ACTING = {"phase": "acting", "host": 3, "step": 7, "epoch": 0, "minibatch": 0}


IN_A_HOST = ACTING | {"phase": "hosts"}


def group_lights(kind: str, shown: str) -> tuple[Case, ...]:
    """Return a case for each group other than the heads that has a light."""
    return (
        Case(True, shown, update=light(kind, "shared", "value"), at="shared"),
        Case(True, shown, update=light(kind, "hosts", "loss", **IN_A_HOST), at="hosts"),
    )


def watched_update(recorder: RunRecorder, number: int = 1, **more: Any) -> None:
    recorder.updated(UpdateRecord(number, steps=8, **more))


def watched(value: Any, shown: str, *updates: dict[str, Any], **more: Any) -> Case:
    """Return a case of a watched run with these updates."""

    def record(recorder: RunRecorder) -> None:
        for number, fields in enumerate(updates, start=1):
            watched_update(recorder, number, **fields)

    return Case(value, shown, watched=record, **more)


def find_an_overflow(recorder: RunRecorder) -> None:
    """Record an incident that began in an exponential."""
    overflow = Operation(
        number=1,
        name="aten.exp.default",
        phase="forward",
        minibatch=0,
        autograd="",
        module="",
        place=Place("/home/ana/net.py", 4321, "forward"),
        inputs=(),
        scalars=(),
        outputs=(),
        columns=None,
        rows=None,
        places=None,
        sources=(),
        poisons=(),
        is_legal=False,
    )
    found = (Found("action", "logits", "+inf"),)
    origin = Origin(overflow, (overflow,), "overflow in exp")
    recorder.found(Trouble(1, 1, "update", Explanation(found, origin)))


#: What proves each record: a case, or several.
CASES: dict[str, Case | tuple[Case, ...]] = {
    "TELE-101": Case("halted", "HALTED", also=lambda w: w.emit(ended("halted"))),
    "TELE-102": Case(4321, "4321", number=4321),
    "TELE-103": Case(4322, "4322", first_episode=4321),
    "TELE-104": at_start("episodes", 7654, "7654"),
    "TELE-105": Case(
        16.0 * HOSTS,
        "32 steps/s",
        afterwards="UPDATE events SET time = 1001.0 + (id - 1) / 32.0",
    ),
    "TELE-106": Case(37_300_000.0, "37.3M", seconds=0.01),
    "TELE-107": Case(STARTED, "1:02:05", seconds_later=3_725.0),
    "TELE-108": at_start("name", "singular", "singular"),
    "TELE-109": at_start("task", "juggling", "juggling"),
    "TELE-110": at_start("device", "cuda:7", "cuda:7"),
    "TELE-111": at_start("seed", 98765, "98765"),
    "TELE-112": at_start("environments", 543, "543"),
    "TELE-113": at_start("host_parameters", 7_770_000, "7.77M"),
    "TELE-114": at_start("largest_class", 0.4321, "largest class 43.2%"),
    "TELE-115": with_load("cpu_percent", 187.25, "187%"),
    "TELE-116": with_load("memory_bytes", 4_321_000_000, "4.3 GB"),
    "TELE-117": with_load("gpu_percent", 43.0, "43%"),
    "TELE-118": with_load("gpu_memory_bytes", 4_321_000_000, "4.3 GB"),
    "TELE-119": with_load("gpu_total_bytes", 43_210_000_000, " of 43 GB", gpu_memory_bytes=1),
    # From a twelfth of an episode at the step to two episodes at the update, 3 seconds later.
    "TELE-120": Case(1_006.0 + 3 * 998 / (2 - 2 / 24), "left 26 min", start={"episodes": 1_000}),
    "TELE-121": Case(1, "1 event", also=lose_an_event),
    "TELE-122": Case(1, "1 damaged", afterwards="UPDATE events SET payload = x'c1' WHERE id = 2"),
    "TELE-123": Case(1, "1 unknown", also=say_something_new),
    "TELE-124": Case(
        "something singular",
        "something singular",
        also=lambda w: w.emit(Notice(level="info", text="something singular")),
        read=lambda log: log[-1].text,
    ),
    "TELE-126": at_start("world_size", 3, "ranks 3"),
    "TELE-125": Case(("a traceback",), "a traceback", printed="a traceback\n"),
    "TELE-138": Case(
        7,
        "7 monitor failures",
        also=lambda w: w.emit(Notice(level="error", text="it failed", monitor_failures=7)),
    ),
    "TELE-131": intervened("skip", "3 skipped"),
    "TELE-132": intervened("rollback", "3 rolled back"),
    "TELE-133": intervened("halt", "3 halted"),
    "TELE-134": Case(3, "incidents 3", also=lambda w: record_incidents(w, "incidents/0001")),
    "TELE-135": Case(3, "not kept 3", also=lambda w: record_incidents(w, "")),
    "TELE-136": Case(
        (3, "incidents/0003"),
        "incidents/0003",
        also=lambda w: record_incidents(w, "incidents/0003"),
        capsules=(3,),
        read=lambda incidents: (incidents[-1].number, incidents[-1].path),
    ),
    "TELE-137": intervened("repeat", "3 repeated"),
    "TELE-201": figure("policy_loss", -0.4321, "-0.432"),
    "TELE-202": figure("value_loss", 0.4322, "0.432"),
    "TELE-203": figure("entropy", 4.323, "4.323"),
    "TELE-204": figure("approximate_kl", 0.0871, "0.087"),
    "TELE-205": figure("clip_fraction", 0.4325, "0.432"),
    "TELE-206": figure("explained_variance", 0.4326, "0.432"),
    "TELE-207": figure("gradient_norm", 43.27, "43.27"),
    "TELE-208": figure("learning_rate", 0.0437, "0.043"),
    "TELE-209": figure("minibatches_skipped", 37, "37"),
    "TELE-210": figure("minibatches", 53, "53"),
    "TELE-211": figure("minibatches_skipped", 37, "37 in"),
    "TELE-212": Case(0.4321, "0.432", scores=(0.4320, 0.4322)),
    "TELE-213": under_fp16("minibatches_rescaled", 37, "37/8"),
    "TELE-214": under_fp16("minibatches_rescaled", 37, "37 in this run"),
    "TELE-215": under_fp16("loss_scale", 4_096.0, "4096"),
    "TELE-216": Case(0.43, "hosts 43%", hosts_seconds=0.43 * 1.1, at="hosts"),
    "TELE-301": (
        Case(
            7,
            "op Inf in ratio, update 7",
            number=7,
            update=light("+inf", "op", "ratio"),
            read=lambda first: first[0].update,
        ),
        Case(
            ("acting", 3, 7, True),
            "op NaN in logits, while acting, host 4, step 7, update 7",
            number=7,
            update=light("nan", "op", **ACTING),
            read=lambda first: (first[0].phase, first[0].host, first[0].step, first[0].reproduced),
        ),
        Case(
            ("preparation", "lstm.bias_ih_l0", False),
            "shared Inf in parameters (lstm.bias_ih_l0), while preparing, update 7, not reproduced",
            number=7,
            update=light(
                "+inf",
                "shared",
                "parameters",
                phase="preparation",
                part="lstm.bias_ih_l0",
                epoch=0,
                minibatch=0,
                reproduced=False,
            ),
            read=lambda first: (first[0].phase, first[0].part, first[0].reproduced),
        ),
    ),
    "TELE-302": Case(True, "●", update=light("nan"), at="op"),
    "TELE-303": Case(True, "●", update=light("+inf"), at="op"),
    "TELE-304": group_lights("nan", "●"),
    "TELE-305": group_lights("-inf", "●"),
    "TELE-306": Case(True, "now", update=light("nan"), at="op"),
    "TELE-307": Case(True, "now", update=light("+inf"), at="op"),
    "TELE-308": group_lights("nan", "now"),
    "TELE-309": group_lights("-inf", "now"),
    **{f"TELE-{figure.number}": by_head(figure.field) for figure in HEAD_FIGURES},
    "TELE-318": (
        Case(
            ("op", "ratio", "+inf", 7, 2, 3, 7, 3, 1, 1, 543, True),
            "Inf in ratio  1        543     7/2/3  7/3/1  now",
            number=7,
            update=light(
                "+inf",
                quantity="ratio",
                count=543,
                epoch=2,
                minibatch=3,
                last_epoch=3,
                last_minibatch=1,
            ),
            read=lambda evidence: astuple(evidence[0])[:12],
        ),
        Case(
            ("acting", 3, 7, "", "acting", "", 5, (), False, False, None, (), False),
            "while acting, host 4, step 7, in 5 steps, not reproduced",
            number=7,
            update=light("+inf", count=5, reproduced=False, **ACTING),
            read=lambda evidence: astuple(evidence[0])[12:],
        ),
        Case(
            True,
            "planted by a drill",
            update=light("+inf", planted=True),
            read=lambda evidence: evidence[0].planted,
        ),
    ),
    "TELE-401": of_host("accuracy", 0.4321, "43.2%"),
    "TELE-402": of_host("loss", 4.321, "4.321"),
    "TELE-403": of_host("parameters", 43_200, "43.2k"),
    "TELE-404": Case(0.4321, "0.432", reward=0.4321, at=(1,)),
    "TELE-405": of_slot("stage", int(Stage.FOSSILIZED), "◆"),
    "TELE-406": of_slot("alpha", 1.0, "■█", stage=int(Stage.HOLDING)),
    "TELE-407": of_slot("blueprint", 4, "bottleneck", stage=int(Stage.TRAINING)),
    "TELE-408": Case(
        0.4321,
        "0.432",
        step={"reward_terms": {"rent": np.array([0.0, 0.4321])}},
        at=(1,),
        read=lambda terms: terms["rent"],
    ),
    "TELE-501": Case(4, "»bottleneck", decided={"actions": {1: 4}}, at=(1, 1)),
    "TELE-502": Case(0.4321, " p  43%", decided={"log_probs": {OP: LOG}}, at=(1, OP)),
    "TELE-503": Case(False, "Slot  inactive", decided={"actions": {OP: int(Op.WAIT)}}, at=(1, 0)),
    "TELE-504": Case(
        0.4321,
        "43%",
        decided={"choice_log_probs": {-len(Op) + Op.PRUNE: LOG}},
        at=(1, OP),
        read=lambda probabilities: probabilities[Op.PRUNE],
    ),
    "TELE-505": Case(0.4321, "0.432", decided={"values": {(): 0.4321}}, at=(1,)),
    "TELE-506": Case(
        (2, int(Op.WAIT)),
        "WAIT",
        decided={"actions": {OP: int(Op.WAIT)}},
        read=lambda decisions: (decisions[-1].step, decisions[-1].heads[OP].choice),
    ),
    "TELE-601": watched("pytorch", "library pytorch", {}),
    "TELE-602": watched(
        "gaussian",
        "(gaussian)",
        {},
        heads=(Head("singular", "gaussian", range(1)),),
        at="singular",
    ),
    "TELE-603": watched(
        0.4321, "singular 0.432", {"figures": {"a/singular": 0.4321}}, at="a/singular"
    ),
    "TELE-604": watched(4321, "nothing was learnt for 4321 updates", {"still_updates": 4321}),
    "TELE-605": watched(True, "●  stalled", {}, {}, {"still_updates": STALLED_UPDATES}, {}),
    "TELE-606": watched(
        2,
        "nothing was learnt from update 2 on; weights move again",
        *({"still_updates": still} for still in (0, 1, 2, 3, 0)),
    ),
    "TELE-607": Case(
        ("aten.exp.default", 4321),
        "exp, forward pass",
        watched=find_an_overflow,
        at=(0,),
        read=lambda origin: (origin.operation, origin.line),
    ),
}


ORDINARY = Case(None, "")
#: A watched run in which all is well.
ORDINARY_WATCHED = watched(None, "", {"figures": {"loss": 0.5}}, library="another")


def ended(status: str) -> RunFinished:
    return RunFinished(status=status, update=1, episodes_done=2)
