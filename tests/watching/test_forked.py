"""Repeating a minibatch in a child process has no side effects on training."""

import ctypes
import logging
import mmap
import multiprocessing
import os
import queue
import random
import threading
import time
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from esper.watching.finding.child import forked, isolation, private_memory
from esper.watching.finding.child.forked import can_fork
from esper.watching.watch import Watch

BAD, STEPS = 2, 4
WAITED = "its second run waited for a lock, thread or process out of its reach"

forks = pytest.mark.skipif(not can_fork([]), reason="no child can be forked here")


class World:
    """What a training loop changes besides its weights."""

    def __init__(self, folder):
        self.folder = folder
        self.queue, self.nested, self.array = deque(), {"a": {"b": {"c": {"d": []}}}}, np.zeros(2)
        self.total, self.rng, self.python = (
            torch.zeros(()),
            np.random.default_rng(0),
            random.Random(1),
        )
        self.torch = torch.Generator().manual_seed(1)
        self.other = nn.BatchNorm1d(3)
        self.file = (folder / "log").open("w", buffering=1)
        self.log = logging.getLogger("of the training")
        self.handler = logging.FileHandler(folder / "logging")
        self.log.addHandler(self.handler)
        # Memory that a forked process shares.
        self.shared = torch.zeros(1).share_memory_()
        self.value, self.semaphore = multiprocessing.Value("i", 0), multiprocessing.Semaphore(9)
        self.memory = mmap.mmap(-1, 1)
        self.mapped = np.memmap(folder / "mapped", np.int64, "w+", shape=2)

    def change(self, model, optimizer, step):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.data.mul_(0.9)
            for state in optimizer.state.values():
                state["exp_avg"].mul_(0.5)
        self.queue.append(step)
        self.nested["a"]["b"]["c"]["d"].append(step)
        self.array += 1
        self.total += 1
        self.shared += 1
        self.value.value += 1
        self.semaphore.acquire()
        self.memory[0] += 1
        self.mapped += 1
        self.other(torch.rand(4, 3, generator=self.torch))
        self.file.write(f"{step}\n")
        self.log.warning("%d", step)
        torch.save(step, self.folder / f"{len(self.queue)}.pt")
        return self.rng.random() + self.python.random() + random.random()

    def state(self):
        self.file.close()
        self.log.removeHandler(self.handler)
        self.handler.close()
        return {
            "plain": (self.queue, self.nested, self.array.tolist(), self.total.item()),
            "shared": (self.shared.item(), self.value.value, self.semaphore.get_value()),
            "mapped": (self.memory[0], self.mapped.tolist()),
            "random": (self.rng.random(), self.python.random(), random.random()),
            "torch": (torch.rand(1).item(), torch.rand(1, generator=self.torch).item()),
            "other": {name: one.tolist() for name, one in self.other.state_dict().items()},
            "files": {path.name: path.read_bytes() for path in self.folder.iterdir()},
        }


def train(folder, *, is_watched, change=World.change):
    """Train, with one bad minibatch; return the state of everything, and the watch."""
    folder.mkdir()
    random.seed(0)
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    world = World(folder)
    watch = Watch([model], [optimizer], on_nonfinite="skip" if is_watched else "report")
    if is_watched:
        watch.__enter__()
    for step in range(STEPS):
        noise = change(world, model, optimizer, step)
        batch = torch.randn(4, 3) + noise
        scaled = batch / (step != BAD)
        loss = model(scaled).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if is_watched or step != BAD:  # the watch leaves the bad step out
            optimizer.step()
    if is_watched:
        watch.__exit__(None, None, None)
        assert watch.failures == 0, watch.last_failure
    weights = [one.tolist() for one in model.parameters()]
    moments = [one["exp_avg"].tolist() for one in optimizer.state.values()]
    return {**world.state(), "weights": weights, "moments": moments}, watch


@forks
def test_a_second_run_has_no_effect_on_training(tmp_path):
    alone, _ = train(tmp_path / "alone", is_watched=False)
    state, watch = train(tmp_path / "watched", is_watched=True)

    assert state == alone
    (trouble,) = watch.troubles
    assert trouble.explanation.origin.operation.base == "div", trouble.explanation


@forks
def test_a_child_process_gives_the_same_result_as_a_second_run_in_place(tmp_path, monkeypatch):
    def nothing(*_):
        return 0.0

    _, watch = train(tmp_path / "forked", is_watched=True, change=nothing)
    monkeypatch.setattr(forked, "can_fork", lambda _: False)
    _, other = train(tmp_path / "in place", is_watched=True, change=nothing)

    (one,), (two,) = watch.troubles, other.troubles
    first, second = one.explanation.origin, two.explanation.origin
    assert one.explanation.found == two.explanation.found
    assert first.cause == second.cause
    assert [each.place for each in first.chain] == [each.place for each in second.chain]
    assert [each.outputs for each in first.chain] == [each.outputs for each in second.chain]


@forks
def test_a_second_run_that_waits_forever_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(forked, "STUCK_S", 0.3)
    items = queue.Queue()
    for _ in range(STEPS):
        items.put(0.0)
    # All are taken at the last minibatch, so that a second run finds none.
    monkeypatch.setattr(f"{__name__}.BAD", STEPS - 1)

    _, watch = train(tmp_path / "run", is_watched=True, change=lambda *_: items.get())

    (trouble,) = watch.troubles
    assert trouble.explanation.why_no_origin == WAITED


@forks
def test_a_second_run_that_waits_for_a_lock_of_another_thread_is_killed_soon(tmp_path, monkeypatch):
    monkeypatch.setattr(forked, "STUCK_S", 0.3)
    monkeypatch.setattr(f"{__name__}.BAD", STEPS - 1)
    lock = threading.Lock()
    is_held, is_over = threading.Event(), threading.Event()

    def hold():
        with lock:
            is_held.set()
            is_over.wait()

    thread = threading.Thread(target=hold)

    def change(_world, _model, _optimizer, step):
        with lock:
            pass
        if step == BAD:  # from here on another thread has it, as where it writes a log
            thread.start()
            is_held.wait()
        return 0.0

    _, watch = train(tmp_path / "run", is_watched=True, change=change)

    is_over.set()
    thread.join()
    (trouble,) = watch.troubles
    assert trouble.explanation.why_no_origin == WAITED


@forks
def test_a_second_run_that_computes_forever_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(forked, "LIMIT_S", 0.2)

    def change(world, _model, _optimizer, step):
        world.queue.append(step)
        while len(world.queue) > step + 1:
            pass
        return 0.0

    _, watch = train(tmp_path / "run", is_watched=True, change=change)

    (trouble,) = watch.troubles
    assert trouble.explanation.why_no_origin.startswith("its second run took longer than")


@forks
def test_the_time_limit_of_a_second_run_grows_with_the_minibatch(tmp_path, monkeypatch):
    monkeypatch.setattr(forked, "LIMIT_S", 0.01)
    clock = time.monotonic

    def change(_world, _model, _optimizer, step):
        if step == BAD:  # as if this minibatch had taken 100 seconds
            monkeypatch.setattr(time, "monotonic", lambda: clock() + 100)
        return 0.0

    _, watch = train(tmp_path / "run", is_watched=True, change=change)

    (trouble,) = watch.troubles
    assert trouble.explanation.origin.operation.base == "div", trouble.explanation


@forks
def test_a_second_run_may_end_its_process(tmp_path):
    def change(world, _model, _optimizer, step):
        world.queue.append(step)
        if len(world.queue) > step + 1:
            raise SystemExit
        return 0.0

    _, watch = train(tmp_path / "run", is_watched=True, change=change)

    (trouble,) = watch.troubles
    assert trouble.explanation.why_no_origin == "its second run ended with SystemExit"


@forks
def test_a_batch_of_a_worker_process_is_changed_once(tmp_path):
    def batches():
        for batch in DataLoader(torch.zeros(1, 1), batch_size=1, num_workers=1):
            yield from [batch] * STEPS

    used, given = [], batches()

    def change(*_):
        used.append(next(given).add_(1))
        return used[-1].item()

    _, watch = train(tmp_path / "run", is_watched=True, change=change)

    (trouble,) = watch.troubles
    assert trouble.explanation.origin.operation.base == "div", trouble.explanation
    assert used[-1].is_shared()
    assert used[-1].item() == STEPS


@forks
def test_a_second_run_that_is_killed_holds_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(forked, "STUCK_S", 0.3)
    lock, items = multiprocessing.Lock(), queue.Queue()
    for _ in range(BAD + 1):
        items.put(0.0)

    def change(_world, _model, _optimizer, step):
        with lock:  # in a second run, nothing comes
            return items.get() if step <= BAD else 0.0

    _, watch = train(tmp_path / "run", is_watched=True, change=change)

    (trouble,) = watch.troubles
    assert trouble.explanation.why_no_origin == WAITED
    assert lock.acquire(block=False)


@forks
def test_nothing_is_repeated_if_it_shares_too_much_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(private_memory, "COPY_LIMIT", mmap.PAGESIZE)
    memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)

    def change(*_):
        memory[0] += 1
        return 0.0

    _, watch = train(tmp_path / "run", is_watched=True, change=change)

    (trouble,) = watch.troubles
    assert "of shared memory would be copied" in trouble.explanation.why_no_origin
    assert memory[0] == STEPS


def writes_without_audit_events(folder, step):
    """Change files as C code does, without an audit event."""
    libc = ctypes.CDLL(None, use_errno=True)
    path = os.fsencode(folder / f"of C {step}")
    file = libc.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    if file < 0 or libc.write(file, b"x" * step, step) != step:
        raise RuntimeError(f"{os.strerror(ctypes.get_errno())}")
    libc.close(file)


def makes_a_fifo(folder, step):
    os.mkfifo(folder / f"fifo of process {os.getpid()}, {step}")


def appends(folder, step):
    with (folder / "log").open("a") as file:
        file.write(f"{step}\n")


@forks
@pytest.mark.parametrize("has_landlock", [True, False])
@pytest.mark.parametrize("change_files", [writes_without_audit_events, makes_a_fifo, appends])
def test_a_second_run_writes_no_file_and_hides_no_cause(
    tmp_path, monkeypatch, change_files, has_landlock
):
    if not has_landlock:
        monkeypatch.setattr(isolation, "deny_changes", lambda: False)

    def train(folder, replay):
        folder.mkdir()
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters())
        watch = Watch([model], [optimizer], on_nonfinite="skip", replay=replay)
        with watch:
            for step in range(1, STEPS):
                rewards = torch.ones(4)
                if step == BAD:
                    rewards = rewards / 0
                advantages = rewards * 2
                change_files(folder, step)
                loss = (model(torch.ones(4, 3)) * advantages).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        (trouble,) = watch.troubles
        return trouble.explanation, {
            path.name: path.read_bytes() if path.is_file() else b"" for path in folder.iterdir()
        }

    alone, files = train(tmp_path / "alone", "off")
    explanation, own_files = train(tmp_path / "repeated", "auto")

    assert explanation.found == alone.found
    assert [one.quantity for one in alone.found] == ["rewards"]
    assert explanation.origin.operation.base == "div", explanation
    assert files == own_files


@forks
def test_the_reason_of_a_second_run_that_fails_is_given(tmp_path):
    process = os.getpid()

    def change(*_):
        return torch.zeros(1, device="cpu" if os.getpid() == process else "meta").item()

    _, watch = train(tmp_path / "run", is_watched=True, change=change)

    (trouble,) = watch.troubles
    assert trouble.explanation.why_no_origin.startswith("its second run failed with RuntimeError")
