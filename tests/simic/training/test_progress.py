"""Progress: by step, with elapsed and remaining time, on a terminal and in a log."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from esper.karn.store.run_store import RunWriter, create_run
from esper.simic.command_progress import CommandProgress
from esper.simic.config import TrainingConfig
from esper.simic.pace import Pace, duration
from esper.simic.training.process.outputs import GuardedStream
from esper.simic.training.process.stopping import StopRequest
from esper.simic.training.progress import PlainLines, ProgressBar, latched
from esper.simic.training.trainer import train


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=80, highlight=False)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_time_left_follows_the_pace_of_the_work_itself(clock: Clock) -> None:
    pace = Pace(100, clock)
    clock.now += 30  # imports
    pace.begin(done=40)  # a resumed run
    assert pace.words(40) == "0:30 elapsed"
    clock.now += 60
    assert pace.words(60) == "1:30 elapsed, about 2:00 left"
    clock.now += 3_600
    assert pace.words(100) == "1:01:30 elapsed, about 0:00 left"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0:00"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03")]
)
def test_a_duration_is_written_like_a_clock(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_log_moves_by_step_but_not_every_step(clock: Clock, payloads: Any) -> None:
    log = io.StringIO()
    lines = PlainLines(10, GuardedStream(lambda: log, "log"), clock)
    lines.stage("loading PyTorch")
    lines.begin(0, 0.125)
    for step in range(1, 25):
        clock.now += 1.0
        lines.stepped(1, step, 24, 2 * step / 24)
    lines.updated(payloads.update(1), payloads.episodes(1))
    assert log.getvalue().splitlines() == [
        "update 1  step 10 of 24  0:10 elapsed, about 1:50 left",
        "update 1  step 20 of 24  0:20 elapsed, about 1:40 left",
        "update 1  episodes 2 of 10  score 0.500  accuracy 0.600 (largest class 0.125)  KL 0.0100"
        "  100k samples/s  0:24 elapsed, about 1:36 left",
    ]


def test_a_drill_is_marked_in_its_line(clock: Clock, payloads: Any) -> None:
    log = io.StringIO()
    sightings = [payloads.sighting(planted=True), payloads.sighting(head="slot", host=3, step=7)]
    PlainLines(10, GuardedStream(lambda: log, "log"), clock).updated(
        payloads.update(1, head_nonfinite=sightings), payloads.episodes(1)
    )
    assert log.getvalue().splitlines()[1:] == [
        "NON-FINITE  update 1: op Inf in logits, epoch 1, minibatch 1, planted by a drill",
        "NON-FINITE  update 1: slot Inf in logits, host 4, step 7, epoch 1, minibatch 1",
    ]


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (
            {"phase": "acting", "host": 3, "step": 7},
            "op Inf in logits, while acting, host 4, step 7",
        ),
        (
            {"quantity": "moments", "phase": "given", "part": "step counter"},
            "op Inf in moments (step counter), before the update",
        ),
        (
            {"phase": "preparation", "host": 1, "step": 2, "reproduced": False},
            "op Inf in logits, while preparing, host 2, step 2, not reproduced",
        ),
    ],
)
def test_sightings_outside_minibatches_have_phase_host_step_and_tensor(
    payloads: Any, seen: dict[str, Any], words: str
) -> None:
    sighting = payloads.sighting(**{"epoch": 0, "minibatch": 0, **seen})
    assert latched(payloads.update(3, head_nonfinite=[sighting])) == [
        f"NON-FINITE  update 3: {words}"
    ]


def test_hosts_with_the_same_fault_share_a_line(payloads: Any) -> None:
    def host(number: int, **changes: Any) -> Any:
        seen = {"head": "hosts", "quantity": "loss", "kind": "nan", "phase": "hosts", "step": 2}
        return payloads.sighting(**{**seen, "host": number, "epoch": 0, "minibatch": 0, **changes})

    hosts = [host(4), host(0), host(7, reproduced=False), host(2, kind="+inf"), host(9)]
    lines = latched(payloads.update(1, head_nonfinite=hosts))
    assert [line.removeprefix("NON-FINITE  update 1: hosts ") for line in lines] == [
        "NaN in loss, while training host 5, step 2, also in hosts 1 and 10",
        "NaN in loss, while training host 8, step 2, not reproduced",
        "Inf in loss, while training host 3, step 2",
    ]


def test_a_bar_shows_a_clock_the_step_and_the_largest_class(
    terminal: Console, payloads: Any
) -> None:
    with ProgressBar(10, terminal) as bar:
        bar.stage("loading PyTorch")
        bar.begin(4, 0.125)
        bar.stepped(3, 12, 24, 5.0)
        bar.updated(payloads.update(3), payloads.episodes(3))
    shown = written(terminal)
    assert "update 3 step 12/24" in shown
    assert " 6/10" in shown
    assert "0:00:00" in shown
    assert "about 0:00 left" in shown
    assert "largest class 0.125" in shown


def test_training_reports_every_step_and_its_stages(tmp_path: Path) -> None:
    calls: list[tuple[Any, ...]] = []

    class Recorder(PlainLines):
        def stage(self, what: str) -> None:
            calls.append(("stage", what))

        def begin(self, episodes_done: int, largest_class: float) -> None:
            calls.append(("begin", episodes_done, round(largest_class, 2)))

        def stepped(self, update: int, step: int, steps: int, episodes: float) -> None:
            calls.append((update, step, steps, episodes))

    config = TrainingConfig(
        episodes=3, envs=2, steps=2, task="digits", processes=1, lstm_size=8, feature_size=8
    )
    run = create_run(tmp_path, "t")
    with RunWriter(run) as writer:
        train(config, run, writer, Recorder(3, io.StringIO()), StopRequest())
    assert calls == [
        ("stage", "preparing digits"),
        ("begin", 0, 0.12),
        (1, 1, 2, 1.0),
        (1, 2, 2, 2.0),
        (2, 1, 2, 2.5),
        (2, 2, 2, 3.0),
    ]


def test_only_a_long_command_reports_its_progress(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with CommandProgress(Console(stderr=True), clock) as progress:
        progress.report("growing, step 0 of 4", 0.0)
        clock.now += 9.0
        progress.report("growing, step 1 of 4", 0.25)
        clock.now += 1.0
        progress.report("growing, step 2 of 4", 0.5)
        progress.report("growing, step 3 of 4", 0.75)
        progress.say("done")
    assert capsys.readouterr().err.splitlines() == [
        "growing, step 2 of 4: 50% of the work done, 0:10 elapsed, about 0:10 left",
        "done",
    ]


def test_a_command_on_a_terminal_has_a_bar_with_a_clock(terminal: Console) -> None:
    with CommandProgress(terminal) as progress:
        progress.report("growing, step 1 of 4", 0.0)
        progress.report("growing, step 2 of 4", 0.5)
        progress.say("a line above it")
    shown = written(terminal)
    assert "loading PyTorch" in shown
    assert "growing, step 2 of 4" in shown
    assert "0:00:00" in shown
    assert "a line above it" in shown
