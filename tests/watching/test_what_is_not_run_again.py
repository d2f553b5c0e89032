"""A loop's body is run a second time only if it has no side effects and does not wait."""

import collections
import importlib.util
import io
import logging
import queue
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from esper.watching.finding.child import forked
from esper.watching.watch import Watch

LOOP = """
import logging
LOG = logging.getLogger("training")
LOSSES = []

def train(model, optimizer, held):
    for step in range(3):
        {statement}
        loss = model(torch.ones(2, 4)).sum() * (torch.nan if step == 2 else 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

import torch
"""

REFUSED = (
    "held.queue.get()",
    "held.queue.get(timeout=5)",
    "held.queue.get_nowait()",
    "held.numbers.popleft()",
    "held.file.writelines(['a'])",
    "print(step, file=held.file)",
    "LOG.warning('step')",
    "held.meter.update(step)",
    "held.meter.step()",
    "held.scheduler.step()",
    "held.event.wait(0)",
    "held.thread.join()",
    "held.iterator.__next__()",
    "[one for one in held.iterator if one == step]",
    "with held.lock: pass",
)
#: Run again in a process of its own only.
CHANGING = (
    "held.numbers.append(step)",
    "held.history['loss'].append(step)",
    "held.history['last'] = step",
    "LOSSES.append(step)",
)
ALLOWED = (
    "held.losses.append(step)",
    "losses = {'a': []}; losses['a'].append(step)",
    "name = ', '.join(['a', 'b'])",
    "name = held.config.get('a', 1)",
    "batch = held.queue.get()",
    "number = held.numbers.popleft()",
    "scheduler = held.scheduler; scheduler.step()",
    "total = torch.ones(2).add(torch.ones(2)).log().sum()",
    "print(step)",
)


class Meter:
    """Counts its calls in a place that is not restored."""

    def __init__(self):
        self.calls = collections.Counter()

    def update(self, _value):
        self.calls["update"] += 1

    def step(self):
        self.calls["step"] += 1


def things(optimizer):
    """Return what the statements work on."""
    filled: queue.Queue[int] = queue.Queue()
    for number in range(3):  # as many as the loop takes: one more would wait for ever
        filled.put(number)
    thread = threading.Thread(target=lambda: None)
    thread.start()
    return SimpleNamespace(
        queue=filled, numbers=collections.deque(range(3)), history={"loss": []}, losses=[],
        file=io.StringIO(), meter=Meter(), event=threading.Event(), thread=thread,
        iterator=iter(range(3)), lock=threading.Lock(), config={"a": 2},
        scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer),
    )  # fmt: skip


def run(tmp_path, source, *, is_watched):
    """Run a loop; return the watch, and what its statements changed."""
    file = tmp_path / "loop.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location("loop", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    held = things(optimizer)
    watch = Watch([model], [optimizer]) if is_watched else None
    module.train(model, optimizer, held)
    if watch is not None:
        watch.close()
    changed = (
        held.queue.qsize(), list(held.numbers), held.history, held.losses, held.file.getvalue(),
        held.meter.calls, list(held.iterator), held.scheduler.last_epoch,
    )  # fmt: skip
    return watch, changed


@pytest.mark.parametrize("statement", [*REFUSED, *ALLOWED])
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_second_run_changes_nothing(tmp_path, caplog, statement):
    with caplog.at_level(logging.WARNING, "training"):
        source = LOOP.format(statement=statement)
        _, expected = run(tmp_path, source, is_watched=False)
        lines = len(caplog.records)
        watch, changed = run(tmp_path, source, is_watched=True)

    assert changed == expected
    assert len(caplog.records) == 2 * lines
    (trouble,) = watch.troubles
    assert watch.failures == 0, watch.last_failure
    if statement in ALLOWED:
        assert trouble.explanation.origin is not None, trouble.explanation.why_no_origin
    else:
        assert trouble.explanation.why_no_origin.startswith("line 8 ")


@pytest.mark.parametrize("is_apart", [True, False])
@pytest.mark.parametrize("statement", CHANGING)
def test_containers_are_changed_again_only_in_a_process_of_its_own(
    tmp_path, monkeypatch, statement, is_apart
):
    if not is_apart:
        monkeypatch.setattr(forked, "can_fork", lambda _: False)
    source = LOOP.format(statement=statement)
    _, expected = run(tmp_path, source, is_watched=False)
    watch, changed = run(tmp_path, source, is_watched=True)

    assert changed == expected
    (trouble,) = watch.troubles
    assert watch.failures == 0, watch.last_failure
    assert (trouble.explanation.origin is not None) == is_apart
    if not is_apart:
        assert trouble.explanation.why_no_origin.startswith("line 8 ")


ONE_LINE = """
import torch

class Training:
    def train(self, model, optimizer, held):
        {loop}

train = Training().train
"""
LOSS = "loss = model(torch.ones(2, 4)).sum() * (torch.nan if step == 2 else 1.0)"
LEARN = "optimizer.zero_grad(); loss.backward(); optimizer.step()"


@pytest.mark.parametrize(
    "loop",
    [
        f"for step in range(3):\n            {LOSS}\n            {LEARN}; held.meter.update(step)",
        f"for step in range(3): {LOSS}; {LEARN}; held.file.write('a'); held.meter.step()",
        f"""for step in range(3):
            with torch.enable_grad():
                {LOSS}
                {LEARN}
                held.meter.update(step)""",
    ],
)
def test_what_stands_behind_the_step_is_no_reason_not_to_repeat(tmp_path, loop):
    source = ONE_LINE.format(loop=loop)
    _, expected = run(tmp_path, source, is_watched=False)
    watch, changed = run(tmp_path, source, is_watched=True)

    assert changed == expected
    (trouble,) = watch.troubles
    assert trouble.explanation.origin is not None, trouble.explanation.why_no_origin
    assert trouble.explanation.origin.operation.base == "mul"


@pytest.mark.parametrize(
    "loop",
    [
        f"for step in range(3): held.meter.update(step); {LOSS}; {LEARN}",
        f"""for step in range(3):
            try:
                {LOSS}; {LEARN}
            finally:
                held.meter.update(step)""",
    ],
)
def test_what_runs_before_the_step_or_at_the_end_of_a_try_still_is(tmp_path, loop):
    watch, _ = run(tmp_path, ONE_LINE.format(loop=loop), is_watched=True)

    (trouble,) = watch.troubles
    assert trouble.explanation.why_no_origin.endswith("calls update()")
