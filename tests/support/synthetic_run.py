"""A synthetic run: events like those of `esper ppo`, in the same proportions."""

from collections.abc import Iterator
from struct import pack

from run_starts import run_started

from esper.leyline.head_figures import HEAD_FIGURES
from esper.leyline.heads import (
    BLUEPRINT_CHOICES,
    HEAD_NAMES,
    HEAD_SIZES,
    SLOT_CHOICES,
)
from esper.leyline.telemetry import (
    CheckpointWritten,
    DecisionsTaken,
    EpisodesCompleted,
    Payload,
    PPOUpdatePayload,
    RunStarted,
    SeedTransitioned,
    StepCompleted,
)

STEPS = 24  # in an episode
#: Probabilities of all choices of all heads, as they are written down.
_DISTRIBUTIONS = [
    pack(
        f"<{sum(HEAD_SIZES)}f",
        *(
            0.05 + 0.1 * share if choice == 0 else (0.95 - 0.1 * share) / max(1, size - 1)
            for size in HEAD_SIZES
            for choice in range(size)
        ),
    )
    for share in range(10)
]


def start_of(hosts: int) -> RunStarted:
    """Return the start of a run."""
    return run_started("benchmark", hosts, steps=STEPS)


def step_of(update: int, step: int, hosts: int) -> StepCompleted:
    """Return the event of one step of all hosts."""
    return StepCompleted(
        update=update,
        step=step,
        first_episode=(update - 1) * hosts + 1,
        accuracy=[0.01 * step + 0.001 * host for host in range(hosts)],
        loss=[2.0 - 0.01 * step] * hosts,
        parameters=[858] * hosts,
        stages=[[0, 2, 5]] * hosts,
        alphas=[[0.0, 0.5, 1.0]] * hosts,
        blueprints=[[-1, 3, 0]] * hosts,
        reward=[0.1] * hosts,
        reward_terms={name: [0.1] * hosts for name in ("potential", "rent", "score")},
        samples_per_second=100_000.0,
    )


def update_of(update: int, hosts: int) -> PPOUpdatePayload:
    """Return the outcome of a healthy update."""
    return PPOUpdatePayload(
        update=update,
        episodes_done=update * hosts,
        minibatches=8,
        minibatches_skipped=0,
        minibatches_stopped=0,
        policy_loss=-0.01 * (update % 7),
        value_loss=0.5,
        entropy=3.0 + 0.1 * (update % 5),
        approximate_kl=0.01,
        clip_fraction=0.1,
        explained_variance=0.6,
        gradient_norm=1.5,
        learning_rate=2e-3,
        rollout_seconds=1.0,
        update_seconds=0.1,
        samples_per_second=100_000.0,
        head_inf_detected=dict.fromkeys(HEAD_NAMES, False),
        head_nan_detected=dict.fromkeys(HEAD_NAMES, False),
        **{
            figure.field: dict.fromkeys(HEAD_NAMES, 0.5 + 0.01 * (update % 9))
            for figure in HEAD_FIGURES
        },
    )


def decisions_of(update: int, step: int, hosts: int) -> DecisionsTaken:
    """Return what was decided for all hosts in one step, with all its alternatives."""
    likely = [(update + step + host) % len(_DISTRIBUTIONS) for host in range(hosts)]
    return DecisionsTaken(
        update=update,
        step=step,
        actions=[[0] * len(HEAD_NAMES)] * hosts,
        probabilities=[[0.05 + 0.1 * share] * len(HEAD_NAMES) for share in likely],
        values=[0.1 + 0.01 * share for share in likely],
        distributions=[_DISTRIBUTIONS[share] for share in likely],
    )


def transitions_of(update: int, step: int, hosts: int) -> Iterator[SeedTransitioned]:
    """Yield the transitions of one step: a seed of three hosts in four advances, as measured."""
    for host in range(hosts):
        if (host + step) % 4:
            yield SeedTransitioned(
                update=update,
                step=step,
                episode=(update - 1) * hosts + host + 1,
                host=host,
                slot=(host + step) % len(SLOT_CHOICES),
                blueprint=host % len(BLUEPRINT_CHOICES),
                from_stage=step % 6,
                to_stage=(step + 1) % 6,
                cause="advance",
            )


def payloads_of_a_step(update: int, step: int, hosts: int) -> Iterator[Payload]:
    """Yield the payloads of one step of all hosts."""
    yield decisions_of(update, step, hosts)
    yield step_of(update, step, hosts)
    yield from transitions_of(update, step, hosts)


def payloads_of_an_end(update: int, hosts: int) -> Iterator[Payload]:
    """Yield what follows the last step of a batch of episodes."""
    yield EpisodesCompleted(
        update=update,
        first_episode=(update - 1) * hosts + 1,
        episodes_done=update * hosts,
        score=[0.5] * hosts,
        returns=[1.0] * hosts,
        accuracy=[0.5] * hosts,
        parameters=[858] * hosts,
        fossilized=[1] * hosts,
    )
    yield update_of(update, hosts)
    yield CheckpointWritten(update=update, path=f"checkpoints/{update}.pt", size=1)


def payloads_of_a_run(events: int, hosts: int, *, seeds: bool = True) -> Iterator[Payload]:
    """Yield at least so many payloads.

    Args:
        events: how many.
        hosts: in lockstep.
        seeds: whether seeds change their stage, as in a real run, where that is most of what is
            emitted. Without, as many events are several times as many updates.
    """
    yield start_of(hosts)
    emitted, update = 1, 0
    while emitted < events:
        update += 1
        for step in range(1, STEPS + 1):
            for payload in payloads_of_a_step(update, step, hosts):
                if seeds or not isinstance(payload, SeedTransitioned):
                    yield payload
                    emitted += 1
        for payload in payloads_of_an_end(update, hosts):
            yield payload
            emitted += 1
