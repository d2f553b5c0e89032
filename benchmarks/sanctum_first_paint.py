"""Time from the start of the `sanctum` process to its first frame with content.

    uv run python benchmarks/sanctum_first_paint.py [REPEATS]

Sanctum runs in a pseudo-terminal. A frame has content when the heads' panel and the figures of the
last update are on the screen. The first start is not counted, because Python compiles modules then.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import pexpect
import pyte
from run_starts import run_started

from esper.karn.store.run_store import RunWriter, create_run
from esper.leyline.heads import HEAD_NAMES
from esper.leyline.telemetry import PPOUpdatePayload, RunFinished

COLUMNS, LINES = 120, 40
UPDATES = 200
TIMEOUT_SECONDS = 30


def write_run(run_dir: Path) -> Path:
    """Write a finished run and return its directory."""
    directory = create_run(run_dir, "first-paint")
    with RunWriter(directory) as writer:
        writer.emit(
            run_started(
                directory.name,
                8,
                episodes=8 * UPDATES,
                pid=os.getpid(),
                process_start_time=time.time(),
            )
        )
        for update in range(1, UPDATES + 1):
            writer.emit(_update(update))
        writer.emit(RunFinished(status="finished", update=UPDATES, episodes_done=8 * UPDATES))
    return directory


def _update(update: int) -> PPOUpdatePayload:
    dark = dict.fromkeys(HEAD_NAMES, False)
    return PPOUpdatePayload(
        update=update,
        episodes_done=8 * update,
        minibatches=16,
        minibatches_skipped=0,
        minibatches_stopped=0,
        policy_loss=-0.01,
        value_loss=0.5,
        entropy=3.0,
        approximate_kl=0.01,
        clip_fraction=0.1,
        explained_variance=0.5,
        gradient_norm=0.4,
        learning_rate=2e-3,
        rollout_seconds=1.0,
        update_seconds=1.0,
        samples_per_second=1e5,
        head_inf_detected=dark,
        head_nan_detected=dark,
        head_entropy=dict.fromkeys(HEAD_NAMES, 0.9),
    )


def first_paint_seconds(directory: Path) -> float:
    """Start Sanctum over a run and return the seconds until its first frame with content."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.Stream(screen)
    program = "from esper.cli import sanctum_main; raise SystemExit(sanctum_main())"
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONDONTWRITEBYTECODE": ""}
    started = time.perf_counter()
    sanctum = pexpect.spawn(
        sys.executable,
        ["-c", program, str(directory)],
        dimensions=(LINES, COLUMNS),
        encoding="utf-8",
        env=environment,
    )
    try:
        while True:
            stream.feed(sanctum.read_nonblocking(65_536, timeout=TIMEOUT_SECONDS))
            text = "\n".join(screen.display)
            if "Action heads" in text and "0.900" in text and "FINISHED" in text:
                return time.perf_counter() - started
    finally:
        sanctum.send("q")
        sanctum.expect(pexpect.EOF, timeout=TIMEOUT_SECONDS)


def main() -> None:
    """Print the median and the range over several starts."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory() as run_dir:
        directory = write_run(Path(run_dir))
        first_paint_seconds(directory)
        seconds = sorted(first_paint_seconds(directory) for _ in range(repeats))
    print(
        f"Sanctum's first paint: median {statistics.median(seconds):.3f} s, "
        f"{seconds[0]:.3f} to {seconds[-1]:.3f} s over {repeats} starts"
    )


if __name__ == "__main__":
    main()
