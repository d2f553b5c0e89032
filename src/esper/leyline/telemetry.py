"""Typed event payloads and their msgpack codec.

An event is one fact about a run. Its payload is one of the structs below. `encode_payload` turns
it into msgpack, which represents NaN, +Inf and -Inf (JSON does not); `decode_payload` is the
inverse. A newer writer may add fields, which an older reader ignores, or kinds, which it returns
as `UnknownPayload`. Damaged bytes raise `DamagedEventError`.
"""

import math
from typing import Any, Final, get_args

import msgspec

from esper.leyline.errors import EsperError
from esper.leyline.head_figures import HeadFigures

#: Incremented when the meaning of a stored field changes; an added field does not change it.
SCHEMA_VERSION: Final = 1

#: Group of the quantities that belong to no single head.
SHARED: Final = "shared"
#: Group of failures in the training of a host network.
HOSTS: Final = "hosts"
#: Groups that have their own lights in addition to the heads, with their names in sentences.
GROUPS: Final = {SHARED: "the shared part", HOSTS: "the hosts"}

#: Updates that take steps and move no weight, one after another, before that counts as stalled.
STALLED_UPDATES: Final = 3
#: Kinds of heads: a categorical or binary choice, a dimension of a Gaussian, a module's output, a
#: reward function, or a group of parameters, which has no output.
HEAD_KINDS: Final = (*("categorical", "binary", "gaussian", "value", "module", "reward", "group"),)

#: Phases of an update in which something can be seen, in order of time. Only the last has
#: minibatches.
PHASES: Final = ("given", "hosts", "environment", "acting", "preparation", "update")
#: Phases that consist of steps of an episode.
STEP_PHASES: Final = ("hosts", "environment", "acting")


class DamagedEventError(EsperError, ValueError):
    """The bytes of an event do not match its kind."""


class RunStarted(msgspec.Struct, frozen=True, kw_only=True):
    """A process started this run, or resumed it (`resumed_from_update`)."""

    run_id: str
    name: str
    task: str
    seed: int | None  # of the random number generators; None if unknown
    device: str
    threads: int
    episodes: int  # total number of episodes to train
    steps: int  # steps in an episode
    environments: int  # hosts trained in lockstep
    heads: dict[str, list[str]]  # names of the choices of each head, in action order
    slots: list[str]
    blueprints: list[str]
    host_parameters: int  # parameters of a host before it grows
    config: dict[str, Any]
    pid: int
    process_start_time: float  # seconds since the epoch, from the operating system
    schema_version: int = SCHEMA_VERSION
    esper_version: str = ""
    torch_version: str = ""
    resumed_from_update: int | None = None
    largest_class: float | None = None  # validation accuracy of always predicting the largest class
    # Of a run that is watched from outside; empty for Esper's own agent:
    library: str = ""  # name and version, such as "stable-baselines3 2.9.2"; "pytorch" for a loop
    head_kinds: dict[str, str] = {}  # one of HEAD_KINDS by head; absent: "categorical"
    # Of a run with several processes that train together, each with its own store:
    rank: int = 0  # number of this process, counted from 0
    world_size: int = 1  # number of processes
    machine: str = ""  # name of the machine of this process


class StepCompleted(msgspec.Struct, frozen=True, kw_only=True):
    """Every host trained on one slice of data, then the policy acted once on each.

    Lists have one entry per host; entries of `stages`, `alphas` and `blueprints` are lists with one
    entry per slot.
    """

    update: int  # the update that will learn from this step, counted from 1
    step: int  # counted from 1 within the episode
    first_episode: int  # number of the episode in host 0, counted from 1
    accuracy: list[float]  # on the validation split, 0 to 1
    loss: list[float]  # on the validation split, in nats
    parameters: list[int]  # of the host and its seeds
    stages: list[list[int]]  # values of Stage
    alphas: list[list[float]]
    blueprints: list[list[int]]  # index into the run's blueprints; -1 where the slot is empty
    reward: list[float]
    reward_terms: dict[str, list[float]]
    samples_per_second: float  # training samples of all hosts


class DecisionsTaken(msgspec.Struct, frozen=True, kw_only=True):
    """The policy's choices for each host in one step, with their probabilities."""

    update: int
    step: int
    actions: list[list[int]]  # index of the choice; [host][head]
    probabilities: list[list[float]]  # of the choice taken; [host][head]
    values: list[float]  # the critic's estimate, by host
    # Probabilities of all choices under the mask in effect, by host: heads in order, packed as
    # little-endian float32, because lists of floats would take up most of a store.
    distributions: list[bytes] = []


class SeedTransitioned(msgspec.Struct, frozen=True, kw_only=True):
    """A seed moved from one stage to another."""

    update: int
    step: int
    episode: int  # counted from 1
    host: int
    slot: int
    blueprint: int
    from_stage: int
    to_stage: int
    cause: str
    alpha: float = 0.0


class EpisodesCompleted(msgspec.Struct, frozen=True, kw_only=True):
    """A batch of episodes ended; lists have one entry per host."""

    update: int
    first_episode: int
    episodes_done: int  # in the whole run
    score: list[float]  # terminal score
    returns: list[float]  # undiscounted sum of rewards
    accuracy: list[float]  # validation accuracy of the finished network, 0 to 1
    parameters: list[int]
    fossilized: list[int]  # seeds that became a permanent part of the network


class NonfiniteSighting(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of non-finite value that was seen in one quantity during one update.

    `phase` is one of `PHASES`: "given" is state (parameters, moments, loss scale) that was broken
    before the update began; "hosts" is the training of a host network; "environment" is what an
    environment of a watched run returned; "acting" is the choice of actions; "preparation" is the
    computation of the old log-probabilities, before the first minibatch; "update" is a minibatch.
    """

    head: str  # a head's name, SHARED or HOSTS
    quantity: str
    kind: str  # "nan", "+inf" or "-inf"
    count: int  # number of minibatches (in `STEP_PHASES`: steps) that had it
    # Of the first sighting, counted from 1; 0 in a phase before the first minibatch, and where the
    # training loop shows no epochs:
    epoch: int
    minibatch: int  # of the first sighting within the epoch, counted from 1; 0 before the first
    last_epoch: int = 0  # of the last sighting; 0 where an older writer did not report it
    last_minibatch: int = 0
    phase: str = "update"
    # First host that had it, counted from 0; None: not in a single host. In the phase
    # "environment" it is the environment, as the library counts them.
    host: int | None = None
    # First step of the episode in that host, counted from 1. In the phase "environment" it is the
    # step of that environment since training began; 0 is its first reset.
    step: int | None = None
    part: str = ""  # the tensor, where a quantity has several, such as "exp_avg_sq of heads.bias"
    # False: seen once, but not when the computation was repeated. The phases "given",
    # "environment" and "acting" are never repeated, and always have True.
    reproduced: bool = True
    planted: bool = False  # planted by a drill (`--inject`), and seen nowhere else in the update


class UpdateFigures(HeadFigures, frozen=True, kw_only=True):
    """The figures of one update, as the agent measures them.

    Figures are over the minibatches that were learned from: a minibatch that was left out counts in
    none of them. If all were left out, figures over minibatches are NaN and per-head figures are
    empty. A figure is None where it is not measured, as in a run that is watched from outside.
    Dictionaries are keyed by head name; `HeadFigures` has the per-head figures.
    """

    minibatches: int  # optimizer steps that were due
    minibatches_skipped: int  # of those, left out because something was non-finite
    minibatches_stopped: int  # of those, left out because the policy had moved far enough (KL)
    minibatches_rescaled: int = 0  # of those, left out because the fp16 loss scale was too high
    policy_loss: float | None = None
    value_loss: float | None = None
    entropy: float | None = None  # of all heads together, in nats
    approximate_kl: float | None = None  # of the joint distribution, in nats
    clip_fraction: float | None = None  # 0 to 1
    explained_variance: float | None = None  # of the returns by the critic, whole batch; at most 1
    gradient_norm: float | None = None  # L2 norm over all parameters, before clipping
    learning_rate: float | None = None
    loss_scale: float | None = None  # after the update; None without fp16
    head_inf_detected: dict[str, bool]  # whether the head produced an Inf in this update
    head_nan_detected: dict[str, bool]  # whether the head produced a NaN in this update
    head_nonfinite: list[NonfiniteSighting] = msgspec.field(default_factory=list)

    @property
    def minibatches_learned(self) -> int:
        """Number of minibatches that were learned from."""
        left_out = self.minibatches_skipped + self.minibatches_stopped + self.minibatches_rescaled
        return self.minibatches - left_out

    def measured(self, value: float | None) -> float | None:
        """Return a figure of this update; None if it is NaN because no minibatch was learned from.

        Args:
            value: the figure; None if it is not measured.
        """
        if value is None:
            return None
        return None if math.isnan(value) and self.minibatches_learned <= 0 else value


class PPOUpdatePayload(UpdateFigures, frozen=True, kw_only=True):
    """One completed update: its figures, its place in the run and its duration."""

    update: int  # counted from 1
    episodes_done: int  # in the whole run
    rollout_seconds: float | None = None
    update_seconds: float | None = None
    samples_per_second: float | None = None  # training samples of all hosts, over the rollout
    hosts_seconds: float | None = None  # part of the rollout that trained and measured hosts
    # Of a run that is watched from outside:
    # Figures that the training loop or its library logged, by name.
    logged: dict[str, float] = msgspec.field(default_factory=dict)
    still_updates: int = 0  # last updates, up to this one, that moved no weight though they stepped


class InterventionTaken(msgspec.Struct, frozen=True, kw_only=True):
    """Training reacted to an update in which something was non-finite."""

    update: int
    # "repeat" (the second pass was finite and was kept), "skip", "rollback" or "halt"
    action: str
    cause: str  # what was non-finite
    reason: str  # why no milder action was taken


class IncidentOrigin(msgspec.Struct, frozen=True, kw_only=True):
    """The first operation that turned finite inputs into a non-finite result."""

    operation: str  # name in torch, such as "aten.exp.default"
    phase: str  # "forward", "backward" or "step"
    cause: str  # a sentence
    module: str = ""  # that called it; empty outside any module
    file: str = ""
    line: int = 0
    function: str = ""
    code: str = ""  # the text of the line
    loop: str = ""  # file, line and code in the training loop, where the line is a library's
    counters: str = ""  # of the training loop while acting, such as "global_step = 804"


class IncidentRecorded(msgspec.Struct, frozen=True, kw_only=True):
    """An incident, with its capsule or the reason why there is none."""

    update: int
    number: int  # number of the incident in this run, counted from 1
    path: str  # path of the capsule, relative to the run directory; empty if there is none
    size: int  # bytes
    reason: str = ""  # why there is no capsule
    # Where the minibatch was repeated at once, as in a run that is watched from outside:
    origin: IncidentOrigin | None = None
    no_origin: str = ""  # why the operation is not known, a sentence
    # What was seen, before the event of its update is written.
    sightings: list[NonfiniteSighting] = msgspec.field(default_factory=list)


class CheckpointWritten(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint was written, from which the run can be resumed."""

    update: int
    path: str  # relative to the run directory
    size: int  # bytes


class HostsStalled(msgspec.Struct, frozen=True, kw_only=True):
    """A process that trains hosts does not answer, or answers again."""

    update: int  # the update whose episodes are in progress
    pid: int
    seconds: float  # time without an answer so far
    answered: bool = False  # True: it answers again


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """The training process is alive, and so is its event writer."""

    pid: int
    process_start_time: float
    events_lost: int = 0  # events that could not be stored
    resident_bytes: int = 0
    machine: str = ""  # the machine on which `pid` is valid
    pid_namespace: str = ""  # the namespace in which `pid` is valid; empty if unknown
    error: str = ""  # the writer's last error; empty if there was none
    # Load of the process and its workers; None where it could not be measured:
    cpu_percent: float | None = None  # since the previous heartbeat; 100 is one core
    memory_bytes: int | None = None  # resident
    gpu_percent: float | None = None  # percentage of time in which the GPU was busy
    gpu_memory_bytes: int | None = None  # reserved by the process
    gpu_total_bytes: int | None = None


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A sentence for the event log."""

    level: str  # "info", "warning" or "error"
    text: str
    monitor_failures: int = 0  # of the watch so far, if the sentence is about one; else 0


class RunFinished(msgspec.Struct, frozen=True, kw_only=True):
    """Training ended, and reported its end."""

    # "finished", "stopped" (on request), "halted" (by a non-finite value) or "failed"
    status: str
    update: int
    episodes_done: int
    reason: str = ""


class UnknownPayload(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a kind that this version does not know; its bytes are kept as they are."""

    kind: str
    data: bytes


class DamagedPayload(msgspec.Struct, frozen=True, kw_only=True):
    """An event whose stored bytes do not match its kind."""

    kind: str
    reason: str


Payload = (
    RunStarted
    | StepCompleted
    | DecisionsTaken
    | SeedTransitioned
    | EpisodesCompleted
    | PPOUpdatePayload
    | InterventionTaken
    | IncidentRecorded
    | CheckpointWritten
    | HostsStalled
    | Heartbeat
    | Notice
    | RunFinished
)

KIND_BY_TYPE: Final[dict[type, str]] = {
    RunStarted: "run_started",
    StepCompleted: "step_completed",
    DecisionsTaken: "decisions_taken",
    SeedTransitioned: "seed_transitioned",
    EpisodesCompleted: "episodes_completed",
    PPOUpdatePayload: "ppo_update",
    InterventionTaken: "intervention_taken",
    IncidentRecorded: "incident_recorded",
    CheckpointWritten: "checkpoint_written",
    HostsStalled: "hosts_stalled",
    Heartbeat: "heartbeat",
    Notice: "notice",
    RunFinished: "run_finished",
}
assert set(KIND_BY_TYPE) == set(get_args(Payload))


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One stored event: its position, its time and its payload."""

    id: int  # position in the run's store, counted from 1; 0 for a heartbeat, which has none
    time: float  # seconds since the epoch
    payload: Payload | UnknownPayload | DamagedPayload


_ENCODER = msgspec.msgpack.Encoder()
_DECODERS: Final[dict[str, msgspec.msgpack.Decoder[Any]]] = {
    kind: msgspec.msgpack.Decoder(cls) for cls, kind in KIND_BY_TYPE.items()
}


def kind_of(payload: Payload | UnknownPayload) -> str:
    """Return the name of the payload's kind, as stored."""
    return payload.kind if isinstance(payload, UnknownPayload) else KIND_BY_TYPE[type(payload)]


def encode_payload(payload: Payload | UnknownPayload) -> bytes:
    """Return the payload as msgpack; an unknown payload's bytes are returned unchanged."""
    return payload.data if isinstance(payload, UnknownPayload) else _ENCODER.encode(payload)


def decode_payload(kind: str, data: bytes) -> Payload | UnknownPayload:
    """Return the payload that `data` holds; `UnknownPayload` if the kind is unknown.

    Args:
        kind: name of the payload's kind.
        data: msgpack bytes of the payload.

    Raises:
        DamagedEventError: `data` is not a valid payload of this kind.
    """
    decoder = _DECODERS.get(kind)
    if decoder is None:
        return UnknownPayload(kind=kind, data=data)
    try:
        payload: Payload = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedEventError(f"a {kind} event is damaged: {error}") from error
    return payload
