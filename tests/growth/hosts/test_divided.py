"""Hosts in several processes are the hosts of several environments, and leave none behind."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st

from esper.growth.environment.divided import LEAST_HOSTS, DividedHosts, parts_of
from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.environment.host_process import HostProcessError
from esper.growth.static_networks import static_shapes, train_static
from esper.growth.tasks.loading import Task
from esper.leyline.heads import HEAD_SIZES

STEPS = 6
HOSTS = 2 * LEAST_HOSTS + 1


@pytest.fixture
def settings(small_task: Callable[..., Task]) -> dict[str, Any]:
    """Of a small environment with short episodes."""
    task = small_task(dtype=torch.float32)
    return {"task": task, "steps": STEPS, "batch": 8, "batches": 2}


@pytest.fixture
def divided(settings: dict[str, Any]) -> Iterator[DividedHosts]:
    """Hosts in two processes."""
    hosts = DividedHosts(HOSTS, 2, **settings)
    yield hosts
    hosts.close()


def children() -> list[psutil.Process]:
    """Return this process's children that hold hosts."""
    return [
        child
        for child in psutil.Process().children()
        if "esper.growth.environment.host_process" in child.cmdline()
    ]


@given(hosts=st.integers(1, 300), processes=st.integers(1, 12))
def test_every_host_has_one_place_and_no_process_too_few(hosts: int, processes: int) -> None:
    parts = parts_of(hosts, processes)
    assert [host for part in parts for host in range(hosts)[part]] == list(range(hosts))
    assert len(parts) <= processes
    assert len(parts) == 1 or min(part.stop - part.start for part in parts) >= LEAST_HOSTS
    assert len(parts) == min(processes, max(1, hosts // LEAST_HOSTS))


def test_divided_hosts_live_as_those_of_two_environments(
    divided: DividedHosts, settings: dict[str, Any]
) -> None:
    sizes = [part.stop - part.start for part in parts_of(HOSTS, 2)]
    apart = [
        GrowthVectorEnv(size, autoreset_mode=AutoresetMode.DISABLED, **settings) for size in sizes
    ]
    seeds = [100 + host for host in range(HOSTS)]
    observations, info = divided.reset(seeds)
    first = sizes[0]
    begun = [apart[0].reset(seed=seeds[:first]), apart[1].reset(seed=seeds[first:])]
    assert np.array_equal(observations, np.concatenate([each[0] for each in begun]))
    generator = np.random.default_rng(0)
    moved = 0
    for _ in range(STEPS):
        actions = generator.integers(HEAD_SIZES, size=(HOSTS, len(HEAD_SIZES)))
        *arrays, info = divided.step(actions)
        steps = [
            env.step(part)
            for env, part in zip(apart, (actions[:first], actions[first:]), strict=True)
        ]
        for ours, *theirs in zip(arrays, *(step[:-1] for step in steps), strict=True):
            assert np.array_equal(ours, np.concatenate(theirs))
        infos = [step[-1] for step in steps]
        assert set(info) == set(infos[0])
        for key in set(info) - {"transitions", "nonfinite", "training_samples", "reward_terms"}:
            assert np.array_equal(info[key], np.concatenate([each[key] for each in infos])), key
        for name, term in info["reward_terms"].items():
            parts = [each["reward_terms"][name] for each in infos]
            assert np.array_equal(term, np.concatenate(parts))
        assert info["training_samples"] == sum(each["training_samples"] for each in infos)
        transitions = [(one.host, one.slot, one.to_stage) for one in info["transitions"]]
        expected = [
            (one.host + before, one.slot, one.to_stage)
            for before, each in zip((0, first), infos, strict=True)
            for one in each["transitions"]
        ]
        assert transitions == expected
        moved += sum(host >= first for host, _, _ in transitions)
    assert moved, "some seeds of the other process must have moved for this to prove anything"
    accuracy = np.concatenate([env.test_accuracy() for env in apart])
    assert np.array_equal(divided.test_accuracy(), accuracy)
    assert "score" in info


def test_a_function_is_called_where_the_hosts_are(divided: DividedHosts) -> None:
    shape = static_shapes(divided.env.host_shape, 900)[0]
    seeds = list(range(HOSTS))
    parts = divided.call(train_static, lambda part: (shape, seeds[part]))
    whole = train_static(divided.env, shape, seeds)
    ours = np.concatenate([part.test_accuracy for part in parts])
    assert ours.shape == (HOSTS,)
    assert np.allclose(ours, whole.test_accuracy, atol=0.1)


def test_threads_are_set_in_every_process_and_a_signal_of_the_trainer_ends_none(
    divided: DividedHosts,
) -> None:
    divided.set_threads(2)
    assert divided.call(threads_of) == [2, 2]
    (child,) = children()
    child.send_signal(signal.SIGUSR1)  # as a scheduler sends it to all processes of a job
    divided.set_threads(1)
    assert divided.call(threads_of) == [1, 1]


def threads_of(_env: GrowthVectorEnv) -> int:
    """Return the threads of this process; to be called in all."""
    return torch.get_num_threads()


def test_few_hosts_need_no_other_process(settings: dict[str, Any]) -> None:
    hosts = DividedHosts(LEAST_HOSTS * 2 - 1, 2, **settings)
    assert children() == []
    assert hosts.reset(range(hosts.num_envs))[0].shape[0] == hosts.num_envs
    hosts.close()


def test_a_process_that_dies_is_reported_and_the_others_are_ended(divided: DividedHosts) -> None:
    divided.reset(range(HOSTS))
    (child,) = children()
    child.send_signal(signal.SIGKILL)
    with pytest.raises(
        HostProcessError, match=f"process {child.pid}, which .* was killed by signal 9"
    ):
        divided.step(np.zeros((HOSTS, len(HEAD_SIZES)), dtype=np.int64))
    assert children() == []


def test_a_process_that_is_stopped_is_reported_and_ended_after_a_limit(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[int, bool]] = []

    def listen(pid: int, seconds: float, *, answered: bool) -> None:
        heard.append((pid, answered))
        if len(heard) == 2:
            child.resume()

    hosts = DividedHosts(HOSTS, 2, on_silence=listen, **settings)
    hosts.reset(range(HOSTS))
    (child,) = children()
    for name, seconds in (("_LOOK", 0.02), ("SILENCE", 0.1), ("LONGEST_SILENCE", 30.0)):
        monkeypatch.setattr(f"esper.growth.environment.host_process.{name}", seconds)
    waiting = np.zeros((HOSTS, len(HEAD_SIZES)), dtype=np.int64)
    child.suspend()
    hosts.step(waiting)
    assert heard[:2] == [(child.pid, False)] * 2
    assert heard[-1] == (child.pid, True)

    monkeypatch.setattr("esper.growth.environment.host_process.LONGEST_SILENCE", 0.2)
    child.suspend()
    with pytest.raises(
        HostProcessError, match=f"process {child.pid}, which held hosts, was silent"
    ):
        hosts.step(waiting)
    assert children() == []  # a stopped process does not stay behind


BIG = 4 << 20  # more than a connection holds


def many_bytes(_env: GrowthVectorEnv) -> bytes:
    """Return so much that a process is in the middle of its answer until someone takes it."""
    return bytes(BIG)


def length_of(_env: GrowthVectorEnv, data: bytes) -> int:
    """Return how much came."""
    return len(data)


def test_a_process_that_is_stopped_in_the_middle_of_a_message_is_reported(
    divided: DividedHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    divided.reset(range(HOSTS))
    (process,) = divided._others
    (child,) = children()
    heard: list[bool] = []

    def listen(pid: int, seconds: float, *, answered: bool) -> None:
        assert (pid, seconds < 10) == (child.pid, True)
        heard.append(answered)
        if len(heard) % 3 == 2:
            child.resume()

    for name, seconds in (("_LOOK", 0.02), ("SILENCE", 0.1)):
        monkeypatch.setattr(f"esper.growth.environment.host_process.{name}", seconds)
    process.tell(many_bytes, ())
    assert select.select([process._messages._socket], [], [], 30)[0]  # its answer has begun
    child.suspend()
    assert process.answer(on_silence=listen) == bytes(BIG)
    child.suspend()
    process.tell(length_of, (bytes(BIG),), listen)
    assert process.answer() == BIG
    assert heard == [False, False, True] * 2

    monkeypatch.setattr("esper.growth.environment.host_process.LONGEST_SILENCE", 0.2)
    child.suspend()
    with pytest.raises(HostProcessError, match=f"{child.pid}, which held hosts, was silent"):
        process.tell(length_of, (bytes(BIG),))


def test_a_stopped_process_keeps_no_one_waiting_at_the_end(divided: DividedHosts) -> None:
    divided.reset(range(HOSTS))
    (child,) = children()
    child.suspend()
    start = time.monotonic()
    divided.close()
    assert time.monotonic() - start < 2
    assert children() == []


def test_keys_of_the_terminal_do_not_reach_the_other_processes(divided: DividedHosts) -> None:
    divided.reset(range(HOSTS))  # it has begun
    (child,) = children()
    assert os.getsid(child.pid) == child.pid


_PARENT = """
import sys, time
from esper.growth.environment.divided import DividedHosts
hosts = DividedHosts(16, 2, steps=2, batch=8, batches=1)
hosts.reset(range(16))
print(hosts._others[0].pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("state", ["idle", "stopped"])
def test_a_process_ends_when_the_one_it_works_for_is_killed(state: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    if state == "stopped":
        if sys.platform != "linux":
            pytest.skip("only Linux ends a stopped process with its parent")
        child.suspend()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    gone, alive = psutil.wait_procs([child], timeout=60)
    assert not alive
    assert gone
