"""Typed event payloads, and the codec that carries them.

An event is one fact about a run. Its payload is one of the structs below; `encode_payload` turns it
into msgpack (which keeps NaN, +Inf and -Inf, where JSON would not), and `decode_payload` turns it
back. A newer writer may add fields, which an older reader ignores, or whole kinds, which it returns
as `UnknownPayload`. Damage is raised as `DamagedEventError`, never guessed at.
"""

from typing import Any, Final, get_args

import msgspec

from esper.leyline.errors import EsperError

#: Raised when the meaning of a stored field changes; added fields do not raise it.
SCHEMA_VERSION: Final = 1

#: The name under which a quantity that belongs to no single head is reported.
SHARED: Final = "shared"
#: The name under which a failure in the training of a host network is reported.
HOSTS: Final = "hosts"
#: The groups beside the heads that have lights of their own, with the name each has in a sentence.
GROUPS: Final = {SHARED: "the shared part", HOSTS: "the hosts"}

#: When in an update something was seen, in the order of time. Only the last has minibatches.
PHASES: Final = ("given", "hosts", "acting", "preparation", "update")
#: The phases that go on step by step of an episode.
STEP_PHASES: Final = ("hosts", "acting")


class DamagedEventError(EsperError, ValueError):
    """The bytes of an event are not what its kind says they are."""


class RunStarted(msgspec.Struct, frozen=True, kw_only=True):
    """A process began (or, with `resumed_from_update`, went on) training this run."""

    run_id: str
    name: str
    task: str
    seed: int
    device: str
    threads: int
    episodes: int  # how many episodes this run is to train in all
    steps: int  # steps in an episode
    environments: int  # hosts trained in lockstep
    heads: dict[str, list[str]]  # head name to the names of its choices, in action order
    slots: list[str]
    blueprints: list[str]
    host_parameters: int  # parameters of a host before any growth
    config: dict[str, Any]
    pid: int
    process_start_time: float  # seconds since the epoch, as the operating system has it
    schema_version: int = SCHEMA_VERSION
    esper_version: str = ""
    torch_version: str = ""
    resumed_from_update: int | None = None
    largest_class: float | None = None  # validation accuracy of always answering with that class


class StepCompleted(msgspec.Struct, frozen=True, kw_only=True):
    """Every host trained for one slice of data, and then the policy acted once on each.

    Lists run over hosts. `stages`, `alphas` and `blueprints` have one entry per slot in them.
    """

    update: int  # the update that this step's data will be part of, counted from 1
    step: int  # counted from 1 within the episode
    first_episode: int  # number of the episode in host 0, counted from 1
    accuracy: list[float]  # on the validation split, 0 to 1
    loss: list[float]  # on the validation split, in nats
    parameters: list[int]  # host and its seeds
    stages: list[list[int]]  # values of Stage
    alphas: list[list[float]]
    blueprints: list[list[int]]  # index into the run's blueprints; -1 where the slot is empty
    reward: list[float]
    reward_terms: dict[str, list[float]]
    samples_per_second: float  # training samples over all hosts


class DecisionsTaken(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy chose for each host in one step, and how surely."""

    update: int
    step: int
    actions: list[list[int]]  # host, head
    probabilities: list[list[float]]  # of the choice taken; host, head
    values: list[float]  # the critic's estimate, by host
    # Of all choices of all heads under the mask that counted, by host, heads in order: float32,
    # little-endian, packed since lists of floats would make decisions the bulk of a store.
    distributions: list[bytes] = []


class SeedTransitioned(msgspec.Struct, frozen=True, kw_only=True):
    """A seed passed from one stage of its life to another."""

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
    """A batch of episodes ended; lists run over its hosts."""

    update: int
    first_episode: int
    episodes_done: int  # over the whole run
    score: list[float]  # terminal score
    returns: list[float]  # undiscounted sum of rewards
    accuracy: list[float]  # validation accuracy of the finished network, 0 to 1
    parameters: list[int]
    fossilized: list[int]  # seeds that became part of the network for good


class NonfiniteSighting(msgspec.Struct, frozen=True, kw_only=True):
    """Where in one update a kind of non-finite value was seen.

    `phase` is one of `PHASES`: "given" is state (parameters, moments, loss scale) that was
    broken before the update began; "hosts" the training of a host network; "acting" the choice of
    actions; "preparation" the computation of the old log-probabilities, before the first minibatch;
    "update" a minibatch.
    """

    head: str  # a head's name, SHARED or HOSTS
    quantity: str
    kind: str  # "nan", "+inf" or "-inf"
    count: int  # minibatches (in phases "acting" and "hosts": steps) in which it was seen
    epoch: int  # of the first sighting, counted from 1; 0 in a phase before the first minibatch
    minibatch: int  # of the first sighting within the epoch, counted from 1; 0 as for the epoch
    last_epoch: int = 0  # of the last sighting; 0 where an older writer did not say
    last_minibatch: int = 0
    phase: str = "update"
    host: int | None = None  # first host in which it was seen, counted from 0; None: not of a host
    step: int | None = None  # first step of the episode in that host, counted from 1
    part: str = ""  # the tensor, where a quantity has several, such as "exp_avg_sq of heads.bias"
    # False: seen once, and not when the computation was repeated. The phases "given" and "acting"
    # are never repeated, and always have True.
    reproduced: bool = True
    planted: bool = False  # put there by a drill (`--inject`), and seen nowhere else in the update


class PPOUpdatePayload(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one PPO update. Dictionaries are keyed by head name.

    A minibatch that was left out is in no figure. Where all were left out, the figures over
    minibatches are NaN, and the dictionaries of figures are empty.
    """

    update: int  # counted from 1
    episodes_done: int
    minibatches: int  # optimizer steps that were due
    minibatches_skipped: int  # of those, left out because something was non-finite
    minibatches_stopped: int  # of those, left out because the policy had moved far enough (KL)
    policy_loss: float
    value_loss: float
    entropy: float  # joint, in nats
    approximate_kl: float
    clip_fraction: float
    explained_variance: float
    gradient_norm: float  # over all parameters, before clipping
    learning_rate: float
    rollout_seconds: float
    update_seconds: float
    samples_per_second: float  # training samples of all hosts, over the rollout
    head_inf_detected: dict[str, bool]
    head_nan_detected: dict[str, bool]
    head_nonfinite: list[NonfiniteSighting] = []
    head_entropy: dict[str, float] = {}  # over the logarithm of the number of legal choices, 0 to 1
    head_gradient_norm: dict[str, float] = {}
    head_ratio_max: dict[str, float] = {}
    head_clip_fraction: dict[str, float] = {}
    head_kl: dict[str, float] = {}
    head_log_prob_min: dict[str, float] = {}
    head_log_prob_max: dict[str, float] = {}
    head_active_fraction: dict[str, float] = {}
    loss_scale: float | None = None  # under fp16, after the update
    minibatches_rescaled: int = 0  # left out because the fp16 loss scale was too high: ordinary
    hosts_seconds: float | None = None  # of the rollout, in which hosts were trained and measured

    @property
    def minibatches_learnt(self) -> int:
        """Minibatches that the figures are over."""
        left_out = self.minibatches_skipped + self.minibatches_stopped + self.minibatches_rescaled
        return self.minibatches - left_out


class InterventionTaken(msgspec.Struct, frozen=True, kw_only=True):
    """Something was done about an update that was not finite."""

    update: int
    action: str  # "repeat" (the second pass was finite and stands), "skip", "rollback" or "halt"
    cause: str  # what was not finite
    reason: str  # why this action and not a lesser one


class IncidentRecorded(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed to make an update happen again was written, or deliberately was not."""

    update: int
    number: int  # of the incident in this run, counted from 1
    path: str  # of its capsule, relative to the run directory; empty if it was not kept
    size: int  # bytes
    reason: str = ""  # why it was not kept


class CheckpointWritten(msgspec.Struct, frozen=True, kw_only=True):
    """The state to resume from was written."""

    update: int
    path: str  # relative to the run directory
    size: int  # bytes


class HostsStalled(msgspec.Struct, frozen=True, kw_only=True):
    """A process that holds hosts does not answer, or answers again."""

    update: int  # the update whose episodes are under way
    pid: int
    seconds: float  # of silence so far
    answered: bool = False  # True: the silence is over


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """The training process is alive, and so is its monitor."""

    pid: int
    process_start_time: float
    events_lost: int = 0  # events the monitor could not store
    resident_bytes: int = 0
    machine: str = ""  # where `pid` means something
    pid_namespace: str = ""  # in which `pid` means something; empty where it is not known
    error: str = ""  # the last thing that went wrong in the monitor, if anything did
    # Of the process and its workers; None where it could not be measured:
    cpu_percent: float | None = None  # 100 is one core, since the heartbeat before
    memory_bytes: int | None = None  # resident
    gpu_percent: float | None = None  # of the time in which the GPU was busy
    gpu_memory_bytes: int | None = None  # that the process reserved
    gpu_total_bytes: int | None = None


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A sentence for the event log."""

    level: str  # "info", "warning" or "error"
    text: str


class RunFinished(msgspec.Struct, frozen=True, kw_only=True):
    """Training ended in an orderly way."""

    status: str  # "finished", "stopped" (asked to), "halted" (by what was not finite) or "failed"
    update: int
    episodes_done: int
    reason: str = ""


class UnknownPayload(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a kind that this version does not know; kept, shown, and not understood."""

    kind: str
    data: bytes


class DamagedPayload(msgspec.Struct, frozen=True, kw_only=True):
    """An event whose stored bytes are not what its kind says they are."""

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
    """One stored fact: its place in the run's order, when it was written, and what it says."""

    id: int  # position in the run's store, counted from 1; 0 for a heartbeat, which has none
    time: float  # seconds since the epoch
    payload: Payload | UnknownPayload | DamagedPayload


_ENCODER = msgspec.msgpack.Encoder()
_DECODERS: Final[dict[str, msgspec.msgpack.Decoder[Any]]] = {
    kind: msgspec.msgpack.Decoder(cls) for cls, kind in KIND_BY_TYPE.items()
}


def kind_of(payload: Payload | UnknownPayload) -> str:
    """Return the name of the payload's kind, as it stands in the store."""
    return payload.kind if isinstance(payload, UnknownPayload) else KIND_BY_TYPE[type(payload)]


def encode_payload(payload: Payload | UnknownPayload) -> bytes:
    """Return the payload as msgpack; an unknown one as it came."""
    return payload.data if isinstance(payload, UnknownPayload) else _ENCODER.encode(payload)


def decode_payload(kind: str, data: bytes) -> Payload | UnknownPayload:
    """Return the payload of the given kind that `data` holds.

    Raises:
        DamagedEventError: the kind is known and `data` is not one of it.
    """
    decoder = _DECODERS.get(kind)
    if decoder is None:
        return UnknownPayload(kind=kind, data=data)
    try:
        return decoder.decode(data)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedEventError(f"a {kind} event is damaged: {error}") from error
