"""What Sanctum knows: plain data that the aggregator fills and the widgets read.

Everything is a value of one moment. Widgets and the command line see a `SanctumSnapshot` and
nothing else of a run. Histories are tuples, oldest first, and bounded.
"""

from dataclasses import dataclass, field

from esper.leyline.heads import HEAD_CHOICES, HEAD_NAMES
from esper.leyline.telemetry import GROUPS


def _dark() -> dict[str, bool]:
    return dict.fromkeys(HEAD_NAMES, False)


def _dark_groups() -> dict[str, bool]:
    return dict.fromkeys(GROUPS, False)


@dataclass(frozen=True)
class FirstSighting:
    """The first time in a run that a head or group produced a kind of non-finite value."""

    head: str  # a head's name, or one of GROUPS
    kind: str  # "nan", "+inf" or "-inf"
    quantity: str
    update: int
    epoch: int  # 0, as the minibatch, in a phase before the first minibatch
    minibatch: int
    phase: str = "update"  # one of PHASES
    host: int | None = None  # counted from 0; None: not of a single host
    step: int | None = None  # of the episode, counted from 1
    part: str = ""  # the tensor, where the quantity has several
    reproduced: bool = True  # False: its phase was repeated, and it was never seen again
    planted: bool = False  # only drills have caused it


@dataclass(frozen=True)
class Evidence:
    """Where and how often one kind of non-finite value was seen in one quantity of one head."""

    head: str  # a head's name, or one of GROUPS
    quantity: str
    kind: str  # "nan", "+inf" or "-inf"; "inf" where the sign was not reported
    first_update: int
    first_epoch: int  # 0, as the minibatch, before the first one or where it was not reported
    first_minibatch: int
    last_update: int
    last_epoch: int  # 0, as the minibatch, before the first one or where it was not reported
    last_minibatch: int
    updates: int  # in which it was seen
    minibatches: int  # in which it was seen; none of an update that did not report them
    is_active: bool  # seen in the last update
    first_phase: str = "update"  # one of PHASES
    first_host: int | None = None  # counted from 0; None: not of a single host
    first_step: int | None = None  # of the episode, counted from 1
    first_part: str = ""  # the tensor, where the quantity has several
    last_phase: str = "update"
    last_part: str = ""
    steps: int = 0  # steps of episodes in which it was seen
    other_hosts: tuple[int, ...] = ()  # beside the first, in whose training its first update saw it
    reproduced: bool = True  # False: never seen again when its update was repeated
    planted: bool = False  # only drills have caused it


@dataclass(frozen=True)
class HeadTrend:
    """The last updates of one head, oldest first; non-finite values are kept."""

    entropy: tuple[float, ...] = ()
    gradient_norm: tuple[float, ...] = ()
    ratio_max: tuple[float, ...] = ()
    clip_fraction: tuple[float, ...] = ()


@dataclass(frozen=True)
class TamiyoState:
    """The run's numerical health. Dictionaries are keyed by head name, if not said otherwise."""

    head_inf_latch: dict[str, bool] = field(default_factory=_dark)  # TELE-303
    head_nan_latch: dict[str, bool] = field(default_factory=_dark)  # TELE-302
    head_inf_active: dict[str, bool] = field(default_factory=_dark)  # in the last update
    head_nan_active: dict[str, bool] = field(default_factory=_dark)
    # Of GROUPS, keyed by group:
    group_inf_latch: dict[str, bool] = field(default_factory=_dark_groups)
    group_nan_latch: dict[str, bool] = field(default_factory=_dark_groups)
    group_inf_active: dict[str, bool] = field(default_factory=_dark_groups)  # in the last update
    group_nan_active: dict[str, bool] = field(default_factory=_dark_groups)
    first: tuple[FirstSighting, ...] = ()  # in order of sighting: the first is the first-out
    evidence: tuple[Evidence, ...] = ()  # in order of first sighting
    head_entropy: dict[str, float] = field(default_factory=dict)
    head_gradient_norm: dict[str, float] = field(default_factory=dict)
    head_ratio_max: dict[str, float] = field(default_factory=dict)
    head_clip_fraction: dict[str, float] = field(default_factory=dict)
    head_kl: dict[str, float] = field(default_factory=dict)
    head_log_prob_min: dict[str, float] = field(default_factory=dict)
    head_log_prob_max: dict[str, float] = field(default_factory=dict)
    head_active_fraction: dict[str, float] = field(default_factory=dict)
    head_trend: dict[str, HeadTrend] = field(default_factory=dict)

    def latch(self, light: str) -> dict[str, bool]:
        """Return whether a light ("inf" or "nan") was ever on, by head and then by group."""
        if light == "inf":
            return self.head_inf_latch | self.group_inf_latch
        return self.head_nan_latch | self.group_nan_latch

    def active(self, light: str) -> dict[str, bool]:
        """Return whether the last update turned a light ("inf" or "nan") on, as `latch` does."""
        if light == "inf":
            return self.head_inf_active | self.group_inf_active
        return self.head_nan_active | self.group_nan_active

    def planted(self, light: str) -> dict[str, bool]:
        """Return whether a light ("inf" or "nan") is on and only drills caused it, as `latch`."""
        rows = [row for row in self.evidence if (row.kind == "nan") == (light == "nan")]
        drilled = {row.head for row in rows} - {row.head for row in rows if not row.planted}
        return {head: is_lit and head in drilled for head, is_lit in self.latch(light).items()}


@dataclass(frozen=True)
class TrainingState:
    """The PPO update as a whole; histories have one entry per update."""

    policy_loss: float | None = None  # None before the first update
    value_loss: float | None = None
    entropy: float | None = None
    approximate_kl: float | None = None
    clip_fraction: float | None = None
    explained_variance: float | None = None
    gradient_norm: float | None = None
    learning_rate: float | None = None
    minibatches: int = 0
    minibatches_skipped: int = 0
    skipped_in_run: int = 0
    minibatches_rescaled: int = 0  # left out because the fp16 loss scale was too high: ordinary
    rescaled_in_run: int = 0
    loss_scale: float | None = None  # None unless training is in fp16
    policy_loss_history: tuple[float, ...] = ()
    value_loss_history: tuple[float, ...] = ()
    entropy_history: tuple[float, ...] = ()
    approximate_kl_history: tuple[float, ...] = ()
    clip_fraction_history: tuple[float, ...] = ()
    explained_variance_history: tuple[float, ...] = ()
    gradient_norm_history: tuple[float, ...] = ()
    score: float | None = None  # mean terminal score of the last batch of episodes
    score_history: tuple[float, ...] = ()
    # Shares of the last update's time, its episodes included: "hosts", "acting" and "update".
    time_shares: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class InterventionState:
    """What was done in this run about updates that were not finite, and kept of them."""

    updates_repeated: int = 0  # updates that were finite when repeated: nothing was skipped
    updates_skipped: int = 0  # updates of which bad minibatches were left out
    updates_rolled_back: int = 0
    halts: int = 0
    incidents: int = 0
    incidents_not_kept: int = 0  # of those, without a capsule


@dataclass(frozen=True)
class IncidentState:
    """One update in which something was not finite."""

    update: int
    number: int  # in this run, counted from 1
    path: str  # of its capsule, relative to the run directory; empty if it was not kept
    reason: str = ""  # why it was not kept


@dataclass(frozen=True)
class SlotState:
    """One slot of one host."""

    stage: int = 0  # value of leyline.heads.Stage
    alpha: float = 0.0
    blueprint: int = -1  # index into RunState.blueprints; -1 where empty


@dataclass(frozen=True)
class HostState:
    """One host, as of its last step."""

    host: int
    episode: int
    accuracy: float
    loss: float
    parameters: int
    reward: float
    slots: tuple[SlotState, ...]
    # Of this episode, one entry per step:
    accuracy_history: tuple[float, ...] = ()
    loss_history: tuple[float, ...] = ()
    reward_history: tuple[float, ...] = ()
    parameters_history: tuple[int, ...] = ()
    slot_history: tuple[tuple[SlotState, ...], ...] = ()  # the slots, by step
    reward_terms: dict[str, float] = field(default_factory=dict)  # of the last step, by name
    reward_terms_history: dict[str, tuple[float, ...]] = field(default_factory=dict)  # by step


@dataclass(frozen=True)
class HeadDecision:
    """What one head chose for one host in one step."""

    head: str
    choice: int  # index into the head's choices
    probability: float  # of the choice taken
    is_active: bool  # whether the choice mattered for the op taken
    probabilities: tuple[float, ...] = ()  # of all choices; empty where the writer did not tell


@dataclass(frozen=True)
class DecisionState:
    """The last decision taken for one host."""

    host: int
    update: int
    step: int
    heads: tuple[HeadDecision, ...]
    value: float  # the critic's estimate


@dataclass(frozen=True)
class LogEntry:
    """One line of the event log."""

    event_id: int
    time: float  # seconds since the epoch
    level: str  # "info", "warning", "error" or "latch"
    text: str
    kind: str = ""  # of the event, as `esper.leyline.telemetry.kind_of` names it
    host: int | None = None  # that it is about, if it is about one
    head: str | None = None  # that it is about, if it is about one
    lead: int = 0  # the event of the line that this one is a detail of; 0: a line of its own


@dataclass(frozen=True)
class RunState:
    """The run as a whole, as its own events tell it."""

    run_id: str = ""
    name: str = ""
    task: str = ""
    device: str = ""
    seed: int | None = None
    # "waiting" (no event yet), "starting", "training", or RunFinished.status
    phase: str = "waiting"
    reason: str = ""  # of the end; or, at the start, what the process is occupied with
    episodes: int = 0
    episodes_done: int = 0
    update: int = 0  # updates completed
    steps: int = 0
    step: int = 0
    progress: float = 0.0  # episodes done; those under way count by their steps
    expected_end: float | None = None  # seconds since the epoch, at the pace of the last batches
    environments: int = 0
    steps_per_second: float | None = None  # environment steps, over all hosts
    samples_per_second: float | None = None
    started_at: float | None = None
    last_event_at: float | None = None
    pid: int | None = None
    process_start_time: float | None = None
    finished_at: float | None = None  # unless the run went on since
    host_parameters: int = 0
    largest_class: float | None = None  # validation accuracy of always answering with that class
    heads: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(HEAD_CHOICES))
    slots: tuple[str, ...] = ()
    blueprints: tuple[str, ...] = ()
    checkpoint: str = ""
    events_lost: int = 0
    damaged_events: int = 0
    unknown_events: int = 0


@dataclass(frozen=True)
class MachineState:
    """What the trainer and its workers took of the machine at the last heartbeat; None: unknown."""

    cpu_percent: float | None = None  # 100 is one core
    memory_bytes: int | None = None  # resident, of all its processes
    gpu_percent: float | None = None  # of the time in which the GPU was busy
    gpu_memory_bytes: int | None = None  # that the trainer reserved
    gpu_total_bytes: int | None = None


@dataclass(frozen=True)
class SanctumSnapshot:
    """All that Sanctum shows of a run, at one moment."""

    run: RunState = field(default_factory=RunState)
    machine: MachineState = field(default_factory=MachineState)
    tamiyo: TamiyoState = field(default_factory=TamiyoState)
    training: TrainingState = field(default_factory=TrainingState)
    interventions: InterventionState = field(default_factory=InterventionState)
    incidents: tuple[IncidentState, ...] = ()  # oldest first, bounded
    hosts: tuple[HostState, ...] = ()
    decisions: tuple[DecisionState, ...] = ()  # the last of every host
    log: tuple[LogEntry, ...] = ()
    last_event_id: int = 0
