"""The state of a run at one moment: plain data that the aggregator fills and the screens show.

Screens and the command line read a run through a `SanctumSnapshot` only. Histories are tuples,
oldest first, of bounded length.
"""

from dataclasses import dataclass, field

from esper.leyline.head_figures import HeadFigures
from esper.leyline.heads import HEAD_CHOICES, HEAD_NAMES
from esper.leyline.telemetry import GROUPS, IncidentOrigin, PPOUpdatePayload, UpdateFigures


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
    epoch: int  # counted from 1; 0 in a phase before the first minibatch
    minibatch: int  # counted from 1; 0 in a phase before the first minibatch
    phase: str = "update"  # one of PHASES
    host: int | None = None  # counted from 0; None: not in a single host
    step: int | None = None  # step of the episode, counted from 1
    part: str = ""  # the tensor, where the quantity has several
    reproduced: bool = True  # False: its phase was repeated, and it was never seen again
    planted: bool = False  # caused by drills only
    rank: int | None = None  # the rank that saw it, counted from 0; None in a run of one process
    began_here: bool = False  # whether this rank found the operation in which it began


@dataclass(frozen=True)
class Evidence:
    """Where and how often one kind of non-finite value was seen in one quantity of one head."""

    head: str  # a head's name, or one of GROUPS
    quantity: str
    kind: str  # "nan", "+inf" or "-inf"; "inf" where the sign was not reported
    first_update: int
    # Epochs and minibatches are 0 before the first minibatch and where they were not reported.
    first_epoch: int
    first_minibatch: int
    last_update: int
    last_epoch: int
    last_minibatch: int
    updates: int  # number of updates in which it was seen
    minibatches: int  # number of minibatches in which it was seen, as far as they were reported
    is_active: bool  # seen in the last update
    first_phase: str = "update"  # one of PHASES
    first_host: int | None = None  # counted from 0; None: not in a single host
    first_step: int | None = None  # step of the episode, counted from 1
    first_part: str = ""  # the tensor, where the quantity has several
    last_phase: str = "update"
    last_part: str = ""
    steps: int = 0  # number of steps of episodes in which it was seen
    other_hosts: tuple[int, ...] = ()  # hosts after the first whose training had it in that update
    reproduced: bool = True  # False: never seen again when its update was repeated
    planted: bool = False  # caused by drills only
    # Of several ranks; the counts above are then those of the rank with the most.
    first_rank: int | None = None  # that saw it first; None in a run of one process
    other_ranks: tuple[int, ...] = ()  # that saw it, too
    began_here: bool = False  # whether the first rank found the operation in which it began


@dataclass(frozen=True)
class TamiyoState:
    """The numerical health of the policy. Dictionaries are keyed by head name unless noted."""

    head_inf_latch: dict[str, bool] = field(default_factory=_dark)  # TELE-303
    head_nan_latch: dict[str, bool] = field(default_factory=_dark)  # TELE-302
    head_inf_active: dict[str, bool] = field(default_factory=_dark)  # in the last update
    head_nan_active: dict[str, bool] = field(default_factory=_dark)
    # Keyed by group: those of GROUPS that the run has. A watched run has no hosts.
    group_inf_latch: dict[str, bool] = field(default_factory=_dark_groups)
    group_nan_latch: dict[str, bool] = field(default_factory=_dark_groups)
    group_inf_active: dict[str, bool] = field(default_factory=_dark_groups)  # in the last update
    group_nan_active: dict[str, bool] = field(default_factory=_dark_groups)
    first: tuple[FirstSighting, ...] = ()  # in order of time: the first is the first-out
    evidence: tuple[Evidence, ...] = ()  # in order of first sighting
    figures: HeadFigures = field(default_factory=HeadFigures)  # of the last update
    # Histories of the figures that are charted, by field of HeadFigures and head; non-finite values
    # included.
    head_history: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)

    def history(self, figure: str, head: str) -> tuple[float, ...]:
        """Return the history of a head's figure; empty if none is kept.

        Args:
            figure: a field of `HeadFigures`.
            head: name of the head.
        """
        return self.head_history.get(figure, {}).get(head, ())

    def latch(self, light: str) -> dict[str, bool]:
        """Return whether a light ("inf" or "nan") was ever on, by head and then by group."""
        if light == "inf":
            return self.head_inf_latch | self.group_inf_latch
        return self.head_nan_latch | self.group_nan_latch

    def active(self, light: str) -> dict[str, bool]:
        """Return whether the last update turned a light ("inf" or "nan") on, keyed like `latch`."""
        if light == "inf":
            return self.head_inf_active | self.group_inf_active
        return self.head_nan_active | self.group_nan_active

    def planted(self, light: str) -> dict[str, bool]:
        """Return whether a light ("inf" or "nan") was caused by drills only, keyed like `latch`."""
        rows = [row for row in self.evidence if (row.kind == "nan") == (light == "nan")]
        drilled = {row.head for row in rows} - {row.head for row in rows if not row.planted}
        return {head: is_lit and head in drilled for head, is_lit in self.latch(light).items()}


@dataclass(frozen=True)
class TrainingState:
    """The figures of the last PPO update as a whole, with their histories.

    A figure is not measured before the first update, and where no minibatch was learned from.
    """

    figures: UpdateFigures | None = None  # of the last update; None before the first
    skipped_in_run: int = 0  # minibatches of the run that were skipped as non-finite
    rescaled_in_run: int = 0  # minibatches of the run that were left out by fp16 loss scaling
    policy_loss_history: tuple[float, ...] = ()
    value_loss_history: tuple[float, ...] = ()
    entropy_history: tuple[float, ...] = ()
    approximate_kl_history: tuple[float, ...] = ()
    clip_fraction_history: tuple[float, ...] = ()
    explained_variance_history: tuple[float, ...] = ()
    gradient_norm_history: tuple[float, ...] = ()
    score: float | None = None  # mean terminal score of the last batch of episodes
    score_history: tuple[float, ...] = ()
    # Fractions of the time of the last update and its episodes: "hosts", "acting" and "update".
    time_shares: dict[str, float] = field(default_factory=dict)
    # Every figure that a watched training loop ever logged, by name, with its history.
    logged_history: dict[str, tuple[float, ...]] = field(default_factory=dict)
    stalled_latch: bool = False  # whether no weight moved for several updates at any time
    stalled_since: int | None = None  # first update of the first such time

    @property
    def logged(self) -> dict[str, float]:
        """Figures that the last update of a watched training loop logged, by name."""
        return self.figures.logged if isinstance(self.figures, PPOUpdatePayload) else {}

    @property
    def still_updates(self) -> int:
        """Updates, up to the last, that moved no weight although they took steps."""
        return self.figures.still_updates if isinstance(self.figures, PPOUpdatePayload) else 0

    @property
    def policy_loss(self) -> float | None:
        """Policy loss; None if not measured."""
        return None if self.figures is None else self.figures.measured(self.figures.policy_loss)

    @property
    def value_loss(self) -> float | None:
        """Value loss; None if not measured."""
        return None if self.figures is None else self.figures.measured(self.figures.value_loss)

    @property
    def entropy(self) -> float | None:
        """Entropy of all heads together, in nats; None if not measured."""
        return None if self.figures is None else self.figures.measured(self.figures.entropy)

    @property
    def approximate_kl(self) -> float | None:
        """Approximate KL divergence, in nats; None if not measured."""
        return None if self.figures is None else self.figures.measured(self.figures.approximate_kl)

    @property
    def clip_fraction(self) -> float | None:
        """Fraction of steps outside the clip range; None if not measured."""
        return None if self.figures is None else self.figures.measured(self.figures.clip_fraction)

    @property
    def explained_variance(self) -> float | None:
        """Variance of the returns that the critic explains; None if not measured."""
        return (
            None if self.figures is None else self.figures.measured(self.figures.explained_variance)
        )

    @property
    def gradient_norm(self) -> float | None:
        """Gradient norm over all parameters, before clipping; None if not measured."""
        return None if self.figures is None else self.figures.measured(self.figures.gradient_norm)

    @property
    def learning_rate(self) -> float | None:
        """Learning rate; None before the first update."""
        return None if self.figures is None else self.figures.learning_rate

    @property
    def loss_scale(self) -> float | None:
        """Loss scale after the update; None without fp16."""
        return None if self.figures is None else self.figures.loss_scale

    @property
    def minibatches(self) -> int:
        """Minibatches of the last update."""
        return 0 if self.figures is None else self.figures.minibatches

    @property
    def minibatches_skipped(self) -> int:
        """Minibatches that were skipped as non-finite."""
        return 0 if self.figures is None else self.figures.minibatches_skipped

    @property
    def minibatches_rescaled(self) -> int:
        """Minibatches that were left out by fp16 loss scaling."""
        return 0 if self.figures is None else self.figures.minibatches_rescaled


@dataclass(frozen=True)
class InterventionState:
    """Counts of reactions to non-finite updates in this run, and of incidents."""

    updates_repeated: int = 0  # updates that were finite when repeated: nothing was skipped
    updates_skipped: int = 0  # updates whose bad minibatches were left out
    updates_rolled_back: int = 0
    halts: int = 0
    incidents: int = 0
    incidents_not_kept: int = 0  # incidents without a capsule


@dataclass(frozen=True)
class IncidentState:
    """One incident: an update in which something was non-finite."""

    update: int
    number: int  # number in this run, counted from 1
    path: str  # path of its capsule, relative to the run directory; empty if there is none
    reason: str = ""  # why there is no capsule
    origin: IncidentOrigin | None = None  # the operation in which it began, if found at once
    no_origin: str = ""  # why that operation is not known, a sentence
    why_not_repeated: str = ""  # what its capsule lacks for a replay, a sentence
    phase: str = ""  # one of PHASES, of what was seen first; empty if unknown
    minibatch: int = 0  # of what was seen first; 0 before the first minibatch, and if unknown
    # Whether all that was seen is shared by ranks, such as a gradient: it may come from another.
    is_spread: bool = False
    rank: int | None = None  # in which it began; None in a run of one process
    also_in: tuple[int, ...] = ()  # ranks that recorded the same fault

    @property
    def can_be_repeated(self) -> bool:
        """Whether `esper replay` can repeat it: its capsule is there and says how."""
        return bool(self.path) and not self.why_not_repeated


@dataclass(frozen=True)
class SlotState:
    """One slot of one host."""

    stage: int = 0  # value of leyline.heads.Stage
    alpha: float = 0.0
    blueprint: int = -1  # index into RunState.blueprints; -1 where empty


@dataclass(frozen=True)
class HostState:
    """One host after its last step."""

    host: int
    episode: int
    accuracy: float
    loss: float
    parameters: int
    reward: float
    slots: tuple[SlotState, ...]
    # Histories of this episode, one entry per step:
    accuracy_history: tuple[float, ...] = ()
    loss_history: tuple[float, ...] = ()
    reward_history: tuple[float, ...] = ()
    parameters_history: tuple[int, ...] = ()
    slot_history: tuple[tuple[SlotState, ...], ...] = ()
    reward_terms: dict[str, float] = field(default_factory=dict)  # of the last step, by name
    reward_terms_history: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class HeadDecision:
    """The choice of one head for one host in one step."""

    head: str
    choice: int  # index into the head's choices
    probability: float  # of the choice taken
    is_active: bool  # whether the choice mattered for the op taken
    probabilities: tuple[float, ...] = ()  # of all choices; empty if an older writer left them out


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
    kind: str = ""  # kind of the event, from `esper.leyline.telemetry.kind_of`
    host: int | None = None  # the host that the line is about, if any
    head: str | None = None  # the head that the line is about, if any
    lead: int = 0  # event id of the line that this line is a detail of; 0: not a detail


@dataclass(frozen=True)
class RunState:
    """The run as a whole, from its events."""

    run_id: str = ""
    name: str = ""
    task: str = ""
    device: str = ""
    seed: int | None = None
    # "waiting" (no event yet), "starting", "training", or RunFinished.status
    phase: str = "waiting"
    reason: str = ""  # why it ended; while starting, what the process is doing
    episodes: int = 0
    episodes_done: int = 0
    update: int = 0  # updates completed
    steps: int = 0
    step: int = 0
    progress: float = 0.0  # episodes done, with the completed fraction of those in progress
    expected_end: float | None = None  # seconds since the epoch, extrapolated from recent batches
    environments: int = 0
    steps_per_second: float | None = None  # environment steps, over all hosts
    samples_per_second: float | None = None
    started_at: float | None = None
    last_event_at: float | None = None
    pid: int | None = None
    process_start_time: float | None = None
    finished_at: float | None = None  # None while it runs, or if it was resumed since
    host_parameters: int = 0
    largest_class: float | None = None  # validation accuracy of always predicting the largest class
    heads: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(HEAD_CHOICES))
    slots: tuple[str, ...] = ()
    blueprints: tuple[str, ...] = ()
    world_size: int = 1  # processes that train together
    library: str = ""  # of a run that is watched from outside; empty for Esper's own agent
    head_kinds: dict[str, str] = field(default_factory=dict)  # by head; absent: "categorical"
    checkpoint: str = ""
    events_lost: int = 0
    damaged_events: int = 0
    unknown_events: int = 0
    monitor_failures: int = 0  # of the watch itself
    last_monitor_failure: str = ""

    @property
    def is_watched(self) -> bool:
        """Whether the run is watched from outside: it then has no hosts and no decisions."""
        return bool(self.library)


@dataclass(frozen=True)
class MachineState:
    """Load of the trainer and its workers at the last heartbeat; None: unknown."""

    cpu_percent: float | None = None  # 100 is one core
    memory_bytes: int | None = None  # resident, of all processes
    gpu_percent: float | None = None  # percentage of time in which the GPU was busy
    gpu_memory_bytes: int | None = None  # reserved by the trainer
    gpu_total_bytes: int | None = None


@dataclass(frozen=True)
class SanctumSnapshot:
    """Everything that Sanctum shows of a run, at one moment."""

    run: RunState = field(default_factory=RunState)
    machine: MachineState = field(default_factory=MachineState)
    tamiyo: TamiyoState = field(default_factory=TamiyoState)
    training: TrainingState = field(default_factory=TrainingState)
    interventions: InterventionState = field(default_factory=InterventionState)
    incidents: tuple[IncidentState, ...] = ()  # oldest first, bounded
    hosts: tuple[HostState, ...] = ()
    decisions: tuple[DecisionState, ...] = ()  # the last one of each host
    log: tuple[LogEntry, ...] = ()
    last_event_id: int = 0
