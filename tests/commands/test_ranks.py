"""`esper ppo` in two processes: the same run as in one, and the same end for both."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from forked_nodes import ForkedNodes
from forked_ranks import ForkedRanks, end_fork_server
from rank_faults import break_rank_1
from run_equality import events_of, same, trained
from torch.distributed import TCPStore
from waiting import wait_until

from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.rank_folders import rank_folder
from esper.karn.store.run_store import RunReader, find_run
from esper.leyline.files.checkpoint_file import checkpoints_in
from esper.leyline.telemetry import IncidentRecorded, PPOUpdatePayload, RunFinished, RunStarted
from esper.simic.training.checkpoint import Checkpoint, load_latest

Run = Callable[..., tuple[int, str, str]]

SETTINGS = {
    "envs": 3,
    "steps": 2,
    "task": "digits",
    "seed": 5,
    "device": "cpu",
    "ppo_epochs": 2,
    "minibatches": 2,
    "feature_size": 4,
    "lstm_size": 4,
    "siblings": 2,
}
#: The last batch has one host, so that one of two ranks has none.
EPISODES = 13


def ppo(episodes: int, *more: str, **settings: object) -> list[str]:
    """Return the arguments of `esper ppo` for a tiny run."""
    given = {"episodes": episodes, **SETTINGS, **settings}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    return ["ppo", "--no-sanctum", *options, *more]


def checkpoint_of(run: Path) -> Checkpoint:
    """Return the newest checkpoint of a run."""
    checkpoint, passed_over = load_latest(run / "checkpoints", torch.device("cpu"))
    assert checkpoint is not None
    assert not passed_over
    return checkpoint


def payloads_of(run: Path, rank: int, kind: type) -> list:
    """Return the events of one kind in the store of a rank."""
    events = RunReader(rank_folder(run, rank)).read(0, 1_000_000)
    return [event.payload for event in events if isinstance(event.payload, kind)]


@pytest.fixture(scope="module", autouse=True)
def no_server_is_left() -> Iterator[None]:
    """End the process that the ranks were forked from."""
    yield
    end_fork_server()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that nothing interrupted."""
    folder = tmp_path_factory.mktemp("straight")
    ranks = ForkedRanks(folder, ppo(EPISODES, "--inject", "op:inf@2"))
    codes, _ = ranks.wait()
    assert codes == [0, 0], ranks.output(0) + ranks.output(1)
    assert "ranks 2, threads 1" in ranks.output(0)
    assert ranks.output(1) == ""  # rank 0 speaks for both
    return find_run(folder / "runs")


def test_two_ranks_train_what_one_process_trains(straight: Path, tmp_path: Path) -> None:
    alone = trained(
        tmp_path / "alone", EPISODES, {**SETTINGS, "processes": 1, "inject": ("op:inf@2",)}
    )
    ranks = checkpoint_of(straight)
    assert (ranks.update, ranks.episodes_done) == (alone.update, EPISODES) == (5, EPISODES)
    for name, values in alone.agent["policy"].items():
        torch.testing.assert_close(ranks.agent["policy"][name], values, rtol=1e-3, atol=1e-4)
    for name in ("action_generator", "order_generator"):
        assert same(ranks.agent[name], alone.agent[name])
    events = [events_of(run) for run in (straight, tmp_path / "alone")]
    kinds = [[kind for text in each if (kind := text.split(" ")[0]) != "notice"] for each in events]
    assert kinds[0] == kinds[1]
    assert "seed_transitioned" in kinds[0]


def test_each_rank_has_a_store_and_the_run_has_the_lights_of_all(straight: Path) -> None:
    starts = [payloads_of(straight, rank, RunStarted)[0] for rank in (0, 1)]
    assert [(one.rank, one.world_size) for one in starts] == [(0, 2), (1, 2)]
    assert all(one.machine and one.device == "cpu" for one in starts)
    for rank in (0, 1):  # both computed the update in which the drill was planted
        seen = [u.head_inf_detected["op"] for u in payloads_of(straight, rank, PPOUpdatePayload)]
        assert seen == [False, True, False, False, False]
    assert len(payloads_of(straight, 0, IncidentRecorded)) == 1
    assert payloads_of(straight, 1, IncidentRecorded) == []
    frame = RunFollower(straight).catch_up()
    assert frame.status.kind == "FINISHED"
    assert frame.snapshot.run.world_size == 2
    assert frame.snapshot.tamiyo.head_inf_latch["op"]


def test_a_killed_rank_ends_the_run_and_a_restart_goes_on_bit_for_bit(
    straight: Path, tmp_path: Path
) -> None:
    # As torchrun has it, which serves the store itself and counts the restarts.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    served = {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": str(store.port)}
    arguments = ppo(3_000, "--inject", "op:inf@2", checkpoint_every=10_000)
    ranks = ForkedRanks(tmp_path, arguments, **served)
    ranks.wait_for("\nupdate 1 ")
    run = find_run(tmp_path / "runs")
    assert checkpoints_in(run / "checkpoints") == []
    ranks.signal(1, signal.SIGUSR1)  # a checkpoint of rank 0, and training continues
    wait_until(lambda: checkpoints_in(run / "checkpoints"), "a checkpoint")
    written = checkpoint_of(run).update
    ranks.wait_for(f"\nupdate {written + 2} ")
    ranks.signal(1, signal.SIGKILL)
    codes, seconds = ranks.wait()
    assert codes == [1, -signal.SIGKILL]
    assert seconds < 10  # on a busy machine; half a second on an idle one
    (end,) = payloads_of(run, 0, RunFinished)
    assert end.status == "failed"
    assert "rank 1 (process " in end.reason
    assert "was killed or crashed; the current batch is lost" in end.reason
    assert end.reason in ranks.output(0)

    updates = checkpoint_of(run).update
    assert updates > written  # the state after the last update was held for this
    episodes = max(EPISODES, 3 * updates + 1)
    arguments = ppo(episodes, "--inject", "op:inf@2", checkpoint_every=1)
    restarted = ForkedRanks(tmp_path, arguments, TORCHELASTIC_RESTART_COUNT="1", **served)
    codes, _ = restarted.wait()
    assert codes == [0, 0], restarted.output(0)
    assert find_run(tmp_path / "runs") == run
    assert f"resumed after update {updates}" in restarted.output(0)
    if episodes == EPISODES:  # else the machine was slow, and the other run was shorter
        assert same(checkpoint_of(run).agent, checkpoint_of(straight).agent)
    assert RunFollower(run).catch_up().snapshot.tamiyo.head_inf_latch["op"]


def test_what_breaks_in_one_rank_is_decided_by_all_and_they_stop_together(tmp_path: Path) -> None:
    ranks = ForkedRanks(tmp_path, ppo(30_000), prepare=break_rank_1)
    ranks.wait_for("\nupdate 6 ")
    ranks.signal(1, signal.SIGTERM)
    codes, seconds = ranks.wait()
    assert codes == [130, 130], ranks.output(0) + ranks.output(1)
    assert seconds < 10  # on a busy machine; 0.3 s on an idle one
    run = find_run(tmp_path / "runs")
    ends = [payloads_of(run, rank, RunFinished) for rank in (0, 1)]
    assert [[end.status for end in each] for each in ends] == [["stopped"], ["stopped"]]
    assert checkpoint_of(run).update == ends[0][0].update
    first, second = (payloads_of(run, rank, PPOUpdatePayload)[:5] for rank in (0, 1))
    # Both skipped the same minibatches, and their figures are the same ever after.
    assert [one.minibatches_skipped for one in first] == [0, 1, 0, 0, 0]
    for one, other in zip(first, second, strict=True):
        assert one.minibatches_skipped == other.minibatches_skipped
        assert (one.policy_loss, one.gradient_norm) == (other.policy_loss, other.gradient_norm)
    # Each store has what its rank saw.
    assert not any(one.head_nonfinite for one in first)
    seen = [[(s.head, s.quantity, s.kind) for s in one.head_nonfinite] for one in second]
    assert seen[1][0] == ("op", "logits", "nan")
    assert {head for head, _, _ in seen[1]} == {"op"}
    assert seen[2] == []
    assert ("hosts", "parameters") in [key[:2] for key in seen[3]]
    assert ("op", "logits", "+inf") in seen[4]
    assert not any(s.reproduced for s in second[4].head_nonfinite)
    host = next(s for s in second[3].head_nonfinite if s.head == "hosts")
    assert host.host == 1  # its number in the batch: rank 0 has host 0
    # The incident and its capsule are of the rank where it began.
    assert payloads_of(run, 0, IncidentRecorded) == []
    incidents = payloads_of(run, 1, IncidentRecorded)
    assert [one.update for one in incidents] == [2, 5]
    assert all((rank_folder(run, 1) / one.path).is_dir() for one in incidents)
    output = ranks.output(0)
    assert "NON-FINITE  update 2, rank 1 on " in output
    assert "the weights of 1 rank differed from those of rank 0 (rank 1 on " in output
    snapshot = RunFollower(run).catch_up().snapshot
    assert snapshot.tamiyo.head_nan_latch["op"]
    assert snapshot.tamiyo.first[0].rank == 1


def test_what_rank_0_refuses_ends_all(straight: Path) -> None:
    folder = straight.parent.parent
    ranks = ForkedRanks(folder, ppo(EPISODES, "--resume", "absent"))
    codes, _ = ranks.wait()
    assert codes == [2, 2]
    assert "there is no run 'absent'" in ranks.output(0)
    assert ranks.output(1) == ""
    # A complete run is no failure in any rank.
    ranks = ForkedRanks(folder, ppo(EPISODES, "--resume", "auto"))
    codes, _ = ranks.wait()
    assert codes == [0, 0]
    assert "has trained 13 episodes already" in ranks.output(0)


@pytest.mark.parametrize("is_whole_node", [True, False])
def test_a_lost_launcher_or_node_ends_all_ranks(tmp_path: Path, is_whole_node: bool) -> None:
    nodes = ForkedNodes(tmp_path, ppo(30_000), nodes=2, ranks=1)
    nodes.wait_for("\nupdate 1 ")
    (nodes.kill_node if is_whole_node else nodes.kill_launcher)(1)
    codes, seconds = nodes.wait()
    assert seconds < 30  # on a busy machine; a second on an idle one
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, -signal.SIGKILL)
    if is_whole_node:  # either rank may have been on it
        outputs = nodes.output(0) + nodes.output(1)
        assert "was killed or crashed; the current batch is lost" in outputs
    else:  # its rank is asked to stop, and asks the other
        assert "stopped: asked to stop" in nodes.output(0)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_processes_cannot_be_given_to_ranks(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rank: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, errors = run("ppo", "--processes", "2")
    assert code == 2
    assert ("leave out --processes" in errors) == (rank == "0")  # once
    assert not (tmp_path / "runs").exists()
