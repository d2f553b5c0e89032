"""Records an incident: a capsule on the disk, an event in the store, a line on the console."""

import platform
from collections.abc import Sequence

import torch

from esper.leyline.version import VERSION
from esper.simic.agent.figures import UpdateResult
from esper.simic.agent.rollout import Rollout
from esper.simic.config import TrainingConfig, settings_of
from esper.simic.drill import Injection
from esper.simic.replay.incidents import Capsule, IncidentLedger, sighting_fields
from esper.simic.training.run_log import RunLog


def capsule_of(
    update: int,
    result: UpdateResult,
    rollout: Rollout,
    drills: Sequence[Injection],
    *,
    config: TrainingConfig,
    threads: int,
    device: torch.device,
) -> Capsule:
    """Return everything that is needed to repeat an update in another process.

    Args:
        update: number of the update.
        result: its result; it must have a starting point.
        rollout: the rollout it learned from.
        drills: the drills that were due in it.
        config: the run's settings.
        threads: number of PyTorch threads.
        device: device of the agent.
    """
    assert result.start is not None
    return Capsule(
        update=update,
        config=settings_of(config),
        agent=result.start.agent,
        rollout=dict(rollout.__dict__),
        minibatches=result.start.minibatches,
        minibatches_per_epoch=result.start.minibatches_per_epoch,
        old_log_probs=result.start.old_log_probs,
        injections=[str(drill) for drill in drills],
        sightings=sighting_fields(result.figures.head_nonfinite),
        versions={
            "esper": VERSION,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        threads=threads,
        device=str(device),
        torch_generator=torch.get_rng_state(),
    )


def record_incident(
    capsule: Capsule, result: UpdateResult, ledger: IncidentLedger, log: RunLog
) -> None:
    """Write a capsule, within the limits of the run, and report it."""
    recorded = ledger.record(capsule, result.figures.head_nonfinite)
    log.writer.emit(recorded, durable=True)
    if recorded.path:
        log.progress.say(f"incident {recorded.number} kept in {recorded.path}")
    else:
        log.progress.say(f"incident {recorded.number} not kept: {recorded.reason}")
