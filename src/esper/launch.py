"""Starts things: a training process, in front or behind Sanctum, and Sanctum over a run.

Training and cockpit are two processes that share the run's store and nothing else. So this module,
which brings them together, imports neither until it must.
"""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from esper.karn.reports.run_commands import run_command
from esper.karn.store.liveness import HEARTBEAT_STALE_SECONDS, StatusKind, is_looked_up_here
from esper.karn.store.recorded_settings import settings_at_start
from esper.karn.store.run_directory import (
    CONFIG_NAME,
    CONSOLE_NAME,
    RunNotFoundError,
    check_store_path,
    create_run,
    find_run,
)
from esper.karn.store.run_tables import RunStoreError
from esper.karn.store.run_writer import RunWriter
from esper.karn.terminal import is_screen
from esper.leyline.checkpoint_file import (
    CHECKPOINTS_NAME,
    CheckpointError,
    CheckpointSummary,
    checkpoints_in,
    newest_whole,
    unsealed_sentence,
)
from esper.leyline.command_lines import install_command
from esper.leyline.plain_text import printable
from esper.leyline.task_names import check_task, parse_task_name
from esper.leyline.telemetry import Notice, RunFinished
from esper.run_lock import HeldRun
from esper.simic.config import (
    RESUMABLE_SETTINGS,
    ConfigError,
    TrainingConfig,
    check_device,
    check_same_settings,
    load_config,
    option_of,
    updated,
    updated_by_file,
    updated_by_options,
    write_config,
)
from esper.simic.drill import scheduled
from esper.simic.training.gpu_load import gpu_load
from esper.simic.training.outputs import GuardedStream, LogFile, OutputTroubles
from esper.simic.training.run_data import DataRecord, check_same_data, read_records, record_data
from esper.simic.training.stopping import StoppedAtOnce, stop_on_signal

if TYPE_CHECKING:
    from esper.leyline.telemetry import Heartbeat
    from esper.simic.training.progress import ProgressReport

#: Of a run that has ended in order; with all its episodes done, nothing is left to resume.
_ENDED = (StatusKind.FINISHED, StatusKind.STOPPED, StatusKind.HALTED)
#: By how training ended, where nobody asked Sanctum to end it.
_EXIT_CODES = {"finished": 0, "failed": 1, "stopped": 130, "halted": 3}
#: Training finished, or stopped when asked to, and the store does not have every event of it, or
#: its last checkpoint could not be written.
EXIT_CODE_INCOMPLETE = 4
#: How long the store may take to be closed where training was asked to stop at once.
_HURRIED_SECONDS = 1.0


def prepare_run(
    run_dir: Path, name: str, given: Mapping[str, Any], config_file: Path | None
) -> HeldRun:
    """Check the settings, make the run's directory and write them there; return the run, locked.

    Raises:
        ConfigError: a setting is unknown or has an impossible value, or the directory cannot be
            made.
    """
    config = TrainingConfig()
    if config_file is not None:
        config = updated_by_file(config, config_file)
    config = updated_by_options(config, given)
    _check_settings(config, given)
    _load_fingerprint(config)
    # Written out, so that more episodes later do not make it another number of hosts;
    # and the task as it is found from wherever the run goes on.
    task = parse_task_name(config.task)
    config = updated(config, {"envs": config.environments, "task": task.absolute})
    try:
        run = create_run(run_dir, name or task.short)
    except OSError as error:
        raise ConfigError(f"cannot make a run in {run_dir}: {error.strerror}") from error
    held = HeldRun(run)
    try:
        _write_config(config, run)
    except BaseException:
        held.close()
        shutil.rmtree(run, ignore_errors=True)  # nothing but empty files is in it
        raise
    return held


def _write_config(config: TrainingConfig, run: Path) -> None:
    try:
        write_config(config, run / CONFIG_NAME)
    except OSError as error:
        raise ConfigError(f"cannot write {run / CONFIG_NAME}: {error.strerror}") from error


def prepare_resume(
    run_dir: Path,
    reference: str,
    given: Mapping[str, Any],
    *,
    config_file: Path | None,
    name: str,
    force: bool = False,
    data_changed: bool = False,
) -> HeldRun:
    """Check that a run can resume, write changed settings into its config, return it, locked.

    Nothing in the run's directory changes before the lock is held.

    Args:
        run_dir: the folder that holds runs.
        reference: the run, as `find_run` takes it.
        given: settings by name; those that are the run's own cannot change.
        config_file, name: refused, since they are the run's own.
        force: resume although the heartbeat of a process on another machine is fresh.
        data_changed: resume although the data of the task is not what the run was trained on.

    Raises:
        RunNotFoundError: there is no such run.
        CheckpointError: it has checkpoints, and none of them is whole.
        ConfigError: the run is still being trained or has nothing left to do, its config is
            damaged, a setting was given that is the run's own, or the data of its task is not the
            same.
    """
    run = find_run(run_dir, reference)
    check_store_path(run)
    recorded = settings_at_start(run)
    config = load_config(run / CONFIG_NAME, recorded)
    if recorded is not None:
        check_same_settings(config, recorded, "its start event")
    fixed = [
        setting
        for setting, value in given.items()
        if setting not in RESUMABLE_SETTINGS and value != getattr(config, setting)
    ]
    if config_file is not None or name or fixed:
        what = "--config" if config_file else "--name" if name else option_of(fixed[0])
        can = ", ".join(map(option_of, RESUMABLE_SETTINGS))
        raise ConfigError(f"{what} cannot change when a run is resumed; only {can} can")
    _check_elsewhere(run, force=force)
    # The lock first: a run that another process trains is not touched.
    held = HeldRun(run)
    try:
        config = updated_by_options(load_config(run / CONFIG_NAME, recorded), given)
        data = _check_resumed(run, config, given, data_changed=data_changed)
        if data_changed:
            _record_data(data, run)
        _write_config(config, run)
    except BaseException:
        held.close()
        raise
    return held


def _newest_checkpoint(run: Path) -> CheckpointSummary | None:
    """Return the summary of the checkpoint that a resume begins with; None if there is none.

    Raises:
        CheckpointError: there are some, and none of them is whole.
    """
    newest = newest_whole(run / CHECKPOINTS_NAME)
    if newest.summary is None and newest.passed_over:
        sentences = "; ".join(newest.passed_over)
        raise CheckpointError(f"{run.name} has no checkpoint that is whole: {sentences}")
    if newest.path is not None and newest.summary is not None and not newest.summary.is_sealed:
        print(printable(unsealed_sentence(newest.path)), file=sys.stderr)
    return newest.summary


def _record_data(data: DataRecord, run: Path) -> None:
    try:
        record_data(run, data.fingerprint, data.after_update)
    except OSError as error:
        raise ConfigError(f"cannot write into {run}: {error.strerror}") from error


def _check_resumed(
    run: Path, config: TrainingConfig, given: Mapping[str, Any], *, data_changed: bool
) -> DataRecord:
    """Check for what would stop the run at its start; return the data that it would be trained on.

    Raises:
        CheckpointError: it has checkpoints, and none of them is whole.
        ConfigError: it has nothing left to do, a setting has an impossible value or is not what
            the checkpoint says, or the data is not what `data_changed` says.
    """
    _check_settings(config, given)
    # The checkpoint decides what is done: the store may tell of updates that are to be repeated.
    checkpoint = _newest_checkpoint(run)
    update, done = (checkpoint.update, checkpoint.episodes_done) if checkpoint else (0, 0)
    if checkpoint is not None:
        check_same_settings(config, checkpoint.settings, f"the checkpoint of update {update}")
    for drill in scheduled(config) if "inject" in given else ():
        if drill.update <= update:
            raise ConfigError(f"--inject {drill}: update {update} of {run.name} is done already")
    # A run that was killed after its last update has yet to end in order.
    if done >= config.episodes and _follow(run).status.kind in _ENDED:
        raise ConfigError(
            f"{run.name} has trained {done} episode{'' if done == 1 else 's'} already; "
            "give a larger --episodes to train more"
        )
    fingerprint = _load_fingerprint(config, always=bool(read_records(run)))
    is_same = not fingerprint or fingerprint in [r.fingerprint for r in read_records(run)[-1:]]
    if data_changed and is_same:
        raise ConfigError(
            f"the data of {run.name} has not changed since it was trained: leave out --data-changed"
        )
    if not data_changed:
        check_same_data(run, config.task, fingerprint)
    return DataRecord(fingerprint, update)


def _check_elsewhere(run: Path, *, force: bool) -> None:
    """Refuse a run that a process on another machine, or in another container, trains.

    Here the lock decides: a process that dies lets go of it. A lock that is held elsewhere may not
    be seen here, so a heart that goes on beating there counts for as much.

    Raises:
        ConfigError: another process trains it.
    """
    beat = _beat_elsewhere(run)
    if beat is None:
        return
    where = beat.machine or "another machine"
    if force:
        print(
            f"--force: the heartbeat of process {beat.pid} on {where} is fresh; resuming all the "
            "same. If that process is alive, both will write this run.",
            file=sys.stderr,
        )
        return
    print(f"waiting to see whether process {beat.pid} on {where} is alive", file=sys.stderr)
    if _beats_again(run, beat):
        raise ConfigError(
            f"{run.name} is still being trained by process {beat.pid} on {where}: stop that first, "
            "or resume with --force"
        )


def _beat_elsewhere(run: Path) -> "Heartbeat | None":
    """Return the heartbeat of a process that this one cannot look up, if it is fresh."""
    beat, at = _heartbeat_of(run)
    if beat is None or time.time() - at > HEARTBEAT_STALE_SECONDS or is_looked_up_here(beat):
        return None
    return beat


def _beats_again(run: Path, beat: "Heartbeat") -> bool:
    first = _heartbeat_of(run)[1]
    end = time.monotonic() + HEARTBEAT_STALE_SECONDS - max(0.0, time.time() - first)
    while time.monotonic() < end:
        time.sleep(0.2)
        now, at = _heartbeat_of(run)
        if now is not None and now.pid == beat.pid and at != first:
            return True
    return False


def _heartbeat_of(run: Path) -> "tuple[Heartbeat | None, float]":
    """Return the last heartbeat and its time; None where the store has none that can be read."""
    from esper.karn.store.run_reader import RunReader
    from esper.leyline.telemetry import Heartbeat

    try:
        event = RunReader(run).heartbeat()
    except RunStoreError:
        event = None
    if event is None or not isinstance(event.payload, Heartbeat):
        return None, 0.0
    return event.payload, event.time


def _check_settings(config: TrainingConfig, given: Mapping[str, Any]) -> None:
    """Raise now, before there is a run, what would stop it at its start.

    Args:
        config: of the run.
        given: settings of the command line, which errors name as options.
    """
    check_task(parse_task_name(config.task))
    try:
        scheduled(config)
        check_device(config.device)
        if config.device == "cuda":
            from esper.simic.environment import resolve_device

            resolve_device(config.device)
    except ConfigError as error:
        raise (error.as_typed() if error.setting in given else error) from error


def _load_fingerprint(config: TrainingConfig, *, always: bool = False) -> str:
    """Load the task, so that what is wrong with its data is known before there is a run.

    Args:
        config: of the run.
        always: load the task whatever it is; by default only where its name says where its data is.

    Returns:
        The fingerprint of the task's data; empty if it was not loaded or cannot change.
    """
    if not (always or parse_task_name(config.task).place):
        return ""
    from esper.growth.tasks.loading import load_task

    return load_task(config.task).fingerprint


@dataclass(frozen=True)
class _Outcome:
    """How training ended."""

    ending: RunFinished
    code: int  # exit code
    is_hurried: bool = False  # the process is to end at once
    is_last_kept: bool = True  # the checkpoint of the last update is on the disk


def train_in_front(run: HeldRun) -> int:
    """Train here, with progress on this terminal; return the exit code."""
    from esper.simic.training.progress import PlainLines, ProgressBar, ProgressReport, Several

    directory = run.directory
    config = load_config(directory / CONFIG_NAME)
    troubles = OutputTroubles()
    with closing(_console_log(directory)) as file:
        log = PlainLines(
            config.episodes,
            GuardedStream(lambda: file, str(directory / CONSOLE_NAME), troubles),
        )
        errors = PlainLines(config.episodes, GuardedStream(lambda: sys.stderr, "standard error"))
        on_screen: ProgressReport
        if sys.stdout.isatty():
            from rich.console import Console

            terminal = sys.stdout
            stream: Any = GuardedStream(lambda: terminal, "the terminal", troubles)
            on_screen = ProgressBar(config.episodes, Console(file=stream, highlight=False))
        else:
            stream = GuardedStream(lambda: sys.stdout, "standard output", troubles)
            on_screen = PlainLines(config.episodes, stream)
        for place in (errors, log):
            troubles.add(place.say)
        outcome = _train(run, config, Several((on_screen, log)), Several((errors, log)), troubles)
        if not outcome.is_hurried:
            # The run has ended; an output that cannot be written does not change how. rich ends
            # the program at a broken pipe.
            with suppress(OSError, ValueError, SystemExit):
                lines = _closing_lines(directory)
                for line in lines:
                    log.say(line)
                _print_end(directory, lines)
    if outcome.is_hurried:
        _end_at_once(outcome.code)
    return outcome.code


def _end_at_once(code: int) -> NoReturn:
    """End the process, in which everything is written and closed, without taking PyTorch down.

    That takes another 2 s, longer than the sender of a SIGTERM may wait.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def _console_log(run: Path) -> LogFile:
    try:
        return LogFile(run / CONSOLE_NAME)
    except OSError as error:
        raise ConfigError(f"cannot write {run / CONSOLE_NAME}: {error.strerror}") from error


def train_child(directory: Path, lock: int | None) -> int:
    """Train as the process behind Sanctum: standard output is the run's console log.

    Args:
        directory: of the run.
        lock: descriptor of the run's lock, if the process that started this one holds it.
    """
    from esper.simic.training.progress import PlainLines

    with HeldRun(directory, lock) as run:
        config = load_config(directory / CONFIG_NAME)
        troubles = OutputTroubles()
        stream = GuardedStream(lambda: sys.stdout, CONSOLE_NAME, troubles)
        log = PlainLines(config.episodes, stream)
        outcome = _train(run, config, log, log, troubles)
        if not outcome.is_hurried:
            for line in _closing_lines(directory):
                log.say(line)  # a detached user reads the log later
    is_stopped = outcome.ending.status == "stopped" and outcome.code != EXIT_CODE_INCOMPLETE
    code = 0 if is_stopped else outcome.code
    if outcome.is_hurried:
        _end_at_once(code)
    return code


def _train(
    run: HeldRun,
    config: TrainingConfig,
    progress: "ProgressReport",
    of_store: "ProgressReport",
    troubles: OutputTroubles,
) -> _Outcome:
    """Train; return how it ended.

    Args:
        run: the run.
        config: its settings.
        progress: console progress reporter.
        of_store: receives what the writer of the store reports of its troubles.
        troubles: passes on the troubles of outputs; the run's log receives them, too.
    """
    directory = run.directory
    # Signals first: a request to stop is heard while torch is still loading, too.
    with (
        stop_on_signal() as stop,
        _writer(directory, config, of_store.say) as writer,
        progress,
    ):
        stop.when_at_once(writer.hurry)
        troubles.add(lambda line: writer.emit(Notice(level="warning", text=line)))
        if run.doubt:
            progress.say(run.doubt)
            writer.emit(Notice(level="warning", text=run.doubt))
        # A viewer would see nothing for the seconds that this takes.
        writer.emit(Notice(level="info", text="loading PyTorch"))
        progress.stage("loading PyTorch")
        try:
            with stop.interruptible():
                from esper.simic.training.trainer import train
        except StoppedAtOnce:
            ending = _stopped_early(directory)
            progress.say(f"{ending.status}: {ending.reason}")
            writer.emit(ending, durable=True)
        else:
            ending = train(config, directory, writer, progress, stop)
        if stop.at_once:
            writer.close(_HURRIED_SECONDS)
    kept = [one.update for one in checkpoints_in(directory / CHECKPOINTS_NAME)]
    is_last_kept = ending.update == 0 or ending.update in kept
    code = _EXIT_CODES[ending.status]
    is_whole = is_last_kept and not writer.events_lost
    if not is_whole and ending.status in ("finished", "stopped"):
        code = EXIT_CODE_INCOMPLETE
    return _Outcome(ending, code, stop.at_once, is_last_kept)


def _stopped_early(run: Path) -> RunFinished:
    summary = newest_whole(run / CHECKPOINTS_NAME).summary
    return RunFinished(
        status="stopped",
        update=summary.update if summary else 0,
        episodes_done=summary.episodes_done if summary else 0,
        reason="asked to stop before training began; it can be resumed",
    )


def _writer(run: Path, config: TrainingConfig, report: Callable[[str], None]) -> RunWriter:
    return RunWriter(run, report, limit_bytes=config.store_megabytes * 2**20, gpu=gpu_load)


class TrainingProcess:
    """A training process in a session of its own, so that it outlives the terminal."""

    def __init__(self, run: HeldRun) -> None:
        lock = run.descriptor
        train = ["-m", "esper", "_train", str(run.directory), "--lock", str(lock)]
        self._log: IO[bytes] = (run.directory / CONSOLE_NAME).open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", *train],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
        )
        run.close()  # the process holds it now, and lets go of it when it ends

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the process's exit code, or None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Ask the process to write a checkpoint and finish at its next update; do not wait."""
        if self.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def wait(self) -> int:
        """Wait until the process has ended; return its exit code."""
        return self._process.wait()


def train_behind_sanctum(held: HeldRun, run_dir: Path) -> int:
    """Train in a process behind, show it in Sanctum here; return the exit code."""
    run = held.directory
    child = TrainingProcess(held)
    from esper.karn.sanctum.cockpit.opening import run_sanctum

    outcome = run_sanctum(run, run_dir, child)
    if outcome == "detach":
        print(f"Training continues in process {child.pid}. Watch it with:")
        print(f"  {run_command(run, 'sanctum')}")
        return 0
    if outcome == "stop":
        child.stop()
        print("Training stops after the current update. Ctrl-C stops it at once.")
        try:
            child.wait()
        except KeyboardInterrupt:
            child.stop()
            child.wait()
    code = child.wait()
    _print_end(run, _closing_lines(run))
    if code not in (0, 3):
        print(f"Training ended with exit code {code}; its output is in {run / CONSOLE_NAME}")
    return code


def watch(
    run_dir: Path,
    reference: str | None,
    *,
    at: int | None = None,
    once: bool,
    picture: Path | None,
    size: tuple[int, int],
    screen: str = "overview",
    theme: str | None = None,
    ascii_only: bool = False,
) -> int:
    """Show a run in Sanctum, or print or draw one frame of it; return the exit code.

    Off a terminal one frame is printed. Without a reference Sanctum shows the newest run, and waits
    for one if there is none yet.

    Raises:
        RunNotFoundError: no run answers to the reference, or there is none to print or draw.
        UpdateNotFoundError: the run has no update of the number `at`.
        RunStoreError: the store of the run whose frame was printed or drawn cannot be read, or an
            event in it.
    """
    once = once or not is_screen()
    try:
        run = find_run(run_dir, reference)
    except RunNotFoundError:
        if reference is not None or at is not None or once or picture is not None:
            raise
        run = None
    if picture is not None:
        from esper.karn.sanctum.cockpit.picture_files import check_picture

        check_picture(picture)
    if run is not None and at is not None:
        from esper.karn.sanctum.cockpit.watch import look_once

        look_once(run, at=at)  # says what is wrong with the number before a screen opens
    if picture is not None or once:
        from esper.karn.sanctum.cockpit.capture import export_frame, print_once

        assert run is not None
        if picture is not None:
            try:
                view = export_frame(
                    run,
                    picture,
                    size,
                    at=at,
                    screen=screen,
                    theme=theme or "dark",
                    ascii_only=ascii_only,
                )
            except OSError as error:
                raise ConfigError(f"cannot write {picture}: {error.strerror}") from error
        else:
            view = print_once(run, at=at, theme=theme, ascii_only=ascii_only)
        if view.doubt is not None:
            raise RunStoreError(str(view.trouble))  # the frame tells a person, this a script
        return 0
    from esper.karn.sanctum.cockpit.opening import run_sanctum

    run_sanctum(run, run_dir, at=at, theme=theme, ascii_only=ascii_only)
    return 0


def print_line(
    run_dir: Path, reference: str | None, *, at: int | None, theme: str | None, ascii_only: bool
) -> int:
    """Print a run in one line; return the exit code of `esper health`.

    Raises:
        RunNotFoundError: no run answers to the reference.
        UpdateNotFoundError: the run has no update of the number `at`.
        RunStoreError: no light is known to be on, and whether one is cannot be known.
    """
    from esper.karn.sanctum.cockpit.line_printing import print_status_line

    return print_status_line(
        find_run(run_dir, reference), at=at, theme=theme, ascii_only=ascii_only
    )


def serve(
    run_dir: Path,
    reference: str | None,
    *,
    host: str,
    port: int,
    token: str | None,
    token_file: Path | None,
    theme: str | None,
    ascii_only: bool,
) -> int:
    """Serve Sanctum to browsers until it is interrupted; return the exit code.

    Raises:
        RunNotFoundError: no run answers to the reference.
        ServeError: it cannot be served like that, or what it takes is not installed.
    """
    from esper.karn.sanctum.served.options import ServeError, ServeOptions, token_from

    options = ServeOptions(host, port, token_from(token, token_file), theme, ascii_only)
    try:
        run = find_run(run_dir, reference)
    except RunNotFoundError:
        if reference is not None:
            raise
        run = None
    try:
        from esper.karn.sanctum.served import server
    except ModuleNotFoundError as error:
        raise ServeError(
            f"sanctum serve needs {error.name}, which comes with: {install_command('serve')}"
        ) from error
    server.serve(options, run_dir, run)
    return 0


def _closing_lines(run: Path) -> list[str]:
    from esper.karn.reports.run_end import closing_lines

    return closing_lines(run)


def _print_end(run: Path, lines: Sequence[str]) -> None:
    """Print the health of a run that ended, and its closing lines."""
    from esper.karn.reports.health import print_health

    try:
        print_health(run.parent, str(run), as_json=False, fail_on="")
    except RunStoreError as error:
        print(printable(str(error)), file=sys.stderr)
    print()
    for line in lines:
        print(_broken_at_words(printable(line)))
    sys.stdout.flush()


def _broken_at_words(line: str) -> str:
    """Return a line as it fits on this terminal; commands, which are indented, stay whole."""
    if line.startswith(" ") or not sys.stdout.isatty():
        return line
    width = shutil.get_terminal_size().columns
    return textwrap.fill(line, max(width, 20), break_long_words=False, break_on_hyphens=False)


def _follow(run: Path) -> Any:
    from esper.karn.sanctum.following.follower import RunFollower

    return RunFollower(run).catch_up()
