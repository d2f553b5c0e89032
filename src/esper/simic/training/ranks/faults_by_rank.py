"""Reports of rank 0 about the other ranks of a run, on the console and in the run's log."""

from collections.abc import Sequence

from esper.leyline.telemetry import NonfiniteSighting
from esper.leyline.text.plurals import counted
from esper.leyline.text.sighting_words import sighting_lines
from esper.simic.agent.ppo import PPOAgent
from esper.simic.ranks.collectives import Ranks
from esper.simic.ranks.sighting_exchange import key_of
from esper.simic.training.ranks.shared_state import take_same_state
from esper.simic.training.run_log import RunLog


def report_faults_by_rank(
    update: int,
    seen: Sequence[NonfiniteSighting],
    own: Sequence[NonfiniteSighting],
    ranks: Ranks,
    log: RunLog,
) -> int:
    """Report, in rank 0, the sightings of other ranks that rank 0 did not see.

    Each rank's own sightings are in its store. Either every rank makes this call, or none does.

    Args:
        update: number of the update.
        seen: sightings of all ranks in this update, causes first; not empty.
        own: sightings of this rank.
        ranks: the ranks of the run.
        log: console and log of this rank.

    Returns:
        The lowest rank that saw `seen[0]`: the rank in which the fault began.
    """
    by_rank = ranks.by_rank(own)
    keys = [{key_of(each) for each in sightings} for sightings in by_rank]
    if ranks.rank == 0:
        for rank in range(1, ranks.world_size):
            only_there = [each for each in by_rank[rank] if key_of(each) not in keys[0]]
            for words in sighting_lines(only_there):
                log.progress.say(f"NON-FINITE  update {update}, {ranks.names[rank]}: {words}")
    return next((rank for rank, known in enumerate(keys) if key_of(seen[0]) in known), 0)


def use_one_state(agent: PPOAgent, ranks: Ranks | None, log: RunLog) -> None:
    """Make sure that all ranks update the same weights, and report ranks whose weights differed."""
    if ranks is None:
        return
    different = take_same_state(agent, ranks)
    if different and ranks.rank == 0:
        names = ", ".join(ranks.names[rank] for rank in different)
        log.say(
            f"the weights of {counted(len(different), 'rank')} differed from those of rank 0 "
            f"({names}): all ranks continue with those of rank 0",
            "warning",
        )
