"""Training in one process: exact counts, everything told, and faults that do not end it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from esper.leyline.telemetry import (
    CheckpointWritten,
    EpisodesCompleted,
    Notice,
    PPOUpdatePayload,
    RunFinished,
    RunStarted,
    SeedTransitioned,
    StepCompleted,
)
from esper.simic import environment, training
from esper.simic.collecting import episode_seeds
from esper.simic.config import ConfigError
from esper.simic.stopping import StopRequest
from esper.simic.threads import choose_threads

Train = Callable[..., tuple[RunFinished, Any]]


def test_exactly_as_many_episodes_are_run_as_were_asked_for(train: Train) -> None:
    ending, log = train(episodes=5)
    assert (ending.status, ending.update, ending.episodes_done) == ("finished", 3, 5)
    assert [len(batch.score) for batch in log.of(EpisodesCompleted)] == [2, 2, 1]
    assert [batch.first_episode for batch in log.of(EpisodesCompleted)] == [1, 3, 5]
    assert [update.update for update in log.of(PPOUpdatePayload)] == [1, 2, 3]
    assert [len(step.accuracy) for step in log.of(StepCompleted)] == [2, 2, 2, 2, 1, 1]
    assert [step.step for step in log.of(StepCompleted)] == [1, 2] * 3
    first, *_ = (told for told in log.payloads if not isinstance(told, Notice))
    assert isinstance(first, RunStarted)
    assert log.payloads[-1] == ending


def test_reward_terms_add_up_to_the_reward(train: Train) -> None:
    _, log = train(episodes=4, steps=6)
    returns = [0.0, 0.0]
    for step in log.of(StepCompleted)[:6]:
        for host in range(2):
            terms = [term[host] for term in step.reward_terms.values()]
            assert sum(terms) == pytest.approx(step.reward[host], abs=1e-6)
            returns[host] += step.reward[host]
    assert returns == pytest.approx(log.of(EpisodesCompleted)[0].returns)
    assert log.of(SeedTransitioned), "a fresh policy germinates as often as it waits"


def test_a_run_asked_to_stop_stops_after_the_update_and_can_go_on(
    train: Train, tmp_path: Path
) -> None:
    stop = StopRequest()
    stop.requested = True
    ending, _ = train(stop, episodes=4)
    assert (ending.status, ending.episodes_done) == ("stopped", 0)
    ending, log = train(episodes=4)
    assert ending.status == "finished"
    assert log.of(RunStarted)[0].resumed_from_update is None
    ending, log = train(episodes=6)
    assert log.of(RunStarted)[0].resumed_from_update == 2
    assert [update.update for update in log.of(PPOUpdatePayload)] == [3]


def test_a_stopped_run_loses_nothing_however_rarely_it_is_kept(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = StopRequest()
    collect = training.collect

    def asked_meanwhile(*arguments: Any, **options: Any) -> Any:
        stop.requested = True
        return collect(*arguments, **options)

    monkeypatch.setattr(training, "collect", asked_meanwhile)
    ending, log = train(stop, episodes=8, checkpoint_every=100)
    assert (ending.status, ending.update) == ("stopped", 1)
    assert [kept.update for kept in log.of(CheckpointWritten)] == [1]


def test_a_drill_is_planted_once_even_if_the_run_goes_on(train: Train) -> None:
    _, log = train(episodes=2, inject=("op:inf@1",))
    assert log.of(PPOUpdatePayload)[0].head_inf_detected["op"]
    _, log = train(episodes=6, inject=("op:inf@1",))
    assert not any(update.head_inf_detected["op"] for update in log.of(PPOUpdatePayload))


def test_a_disk_that_takes_no_checkpoint_does_not_end_training(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    ending, log = train(episodes=4)
    assert ending.status == "finished"
    assert log.of(CheckpointWritten) == []
    assert [notice.level for notice in log.of(Notice)] == ["info", "error", "error"]
    assert "No space left on device" in log.of(Notice)[-1].text


def test_a_fault_ends_the_run_with_its_reason(
    train: Train, event_log: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the host melted")

    monkeypatch.setattr(training, "collect", broken)
    log = event_log()
    with pytest.raises(RuntimeError, match="melted"):
        train(log=log, episodes=4)
    (ending,) = log.of(RunFinished)
    assert (ending.status, ending.reason) == ("failed", "RuntimeError: the host melted")


def test_a_run_robbed_of_its_hosts_fails_in_order_and_can_go_on(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = training.collect

    def collect_without_the_other_process(hosts: Any, *arguments: Any, **options: Any) -> Any:
        if options["update"] == 2:
            (process,) = hosts._others
            psutil.Process(process.pid).kill()
        return collect(hosts, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(training, "collect", collect_without_the_other_process)
        ending, log = train(envs=16, episodes=48)
    assert (ending.status, ending.update, ending.episodes_done) == ("failed", 1, 16)
    assert "was killed by signal 9; the batch under way is lost" in ending.reason
    assert log.payloads[-1] == ending
    ending, log = train(envs=16, episodes=48)
    assert (ending.status, ending.update, ending.episodes_done) == ("finished", 3, 48)


def test_episode_seeds_follow_from_the_run_and_the_number_alone() -> None:
    assert episode_seeds(7, 1, 6, 1) == episode_seeds(7, 1, 4, 1) + episode_seeds(7, 5, 2, 1)
    assert episode_seeds(7, 1, 4, 1) != episode_seeds(8, 1, 4, 1)


def test_siblings_share_a_seed_and_families_do_not() -> None:
    seeds = episode_seeds(7, 1, 8, 3)
    assert seeds[0] == seeds[1] == seeds[2] != seeds[3] == seeds[4] == seeds[5] != seeds[6]
    assert seeds[6] == seeds[7]
    assert not set(seeds) & set(episode_seeds(7, 9, 8, 3))


def test_cuda_is_refused_where_there_is_none() -> None:
    if torch.cuda.is_available():
        assert environment.resolve_device("cuda").type == "cuda"
    else:
        with pytest.raises(ConfigError, match="torch finds none here"):
            environment.resolve_device("cuda")
        assert environment.resolve_device("auto").type == "cpu"


def test_threads_are_chosen_by_measurement() -> None:
    before = torch.get_num_threads()
    used = []
    try:
        chosen = choose_threads(lambda: used.append(torch.get_num_threads()))
        assert chosen in used
        assert used[0] == 1
        assert torch.get_num_threads() == chosen
    finally:
        torch.set_num_threads(before)


def test_two_requests_to_stop_are_an_interrupt() -> None:
    stop = StopRequest()
    stop.handle(2, None)
    assert stop.requested
    with pytest.raises(KeyboardInterrupt):
        stop.handle(2, None)
