"""Where runs live: `<run-dir>/<run-id>/`, with a store, a config, a console log and checkpoints.

A run's id is the moment it was created, in UTC so that ids sort, and its name:
`20261122-193000-name`.
"""

import os
import re
import time
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from typing import Final

from esper.leyline.errors import EsperError
from esper.leyline.files.checkpoint_file import CHECKPOINTS_NAME
from esper.leyline.files.durable_files import sync_directory
from esper.leyline.text.command_lines import command_line

STORE_NAME: Final = "run.sqlite"
CONFIG_NAME: Final = "config.toml"
CONSOLE_NAME: Final = "console.log"
#: The file that the process locks which trains a run.
LOCK_NAME: Final = "training.lock"
#: Environment variable set by `esper run`: the folder for the first watch of a script.
WATCHED_RUN: Final = "ESPER_WATCHED_RUN"

_ID = re.compile(r"(\d{8}-\d{6})(?:-.*)?")
_CANDIDATES_SHOWN: Final = 5
#: Maximum length of a store's path in bytes: SQLite allows 512, and appends up to 8 to the name.
LONGEST_STORE_PATH: Final = 500
#: Tolerance between the clocks of two machines, in seconds.
_CLOCK_TOLERANCE: Final = 60.0


class RunPathError(EsperError, ValueError):
    """A run cannot have its store at this path; the message says why."""


class RunNotFoundError(EsperError, ValueError):
    """No run, or more than one, matches the reference."""


def default_run_dir() -> Path:
    """Return the folder that holds runs: `ESPER_RUN_DIR`, or `runs` in the working directory."""
    return Path(os.environ.get("ESPER_RUN_DIR") or "runs")


def create_run(run_dir: Path, name: str, *, now: float | None = None) -> Path:
    """Create the directory of a new run and return it; concurrent calls get different ids.

    Args:
        run_dir: the folder that holds runs; created if missing.
        name: becomes part of the id; characters other than letters, digits, `.`, `_` and `-` are
            replaced.
        now: current time in seconds since the epoch; by default the system's.

    Raises:
        RunPathError: the path would be too long.
        OSError: the directory cannot be created.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    slug = _slug(name)
    base = f"{stamp}-{slug}" if slug else stamp
    check_store_path(run_dir / f"{base}-0000")  # runs of one second are numbered
    run_dir.mkdir(parents=True, exist_ok=True)
    for attempt in count(1):
        directory = run_dir / (base if attempt == 1 else f"{base}-{attempt}")
        try:
            directory.mkdir()
        except FileExistsError:
            continue
        (directory / CHECKPOINTS_NAME).mkdir()
        # A synced file is lost in a power failure if a folder above it is not synced.
        for folder in (directory, run_dir, run_dir.absolute().parent):
            sync_directory(folder)
        return directory
    raise AssertionError("count() does not end")


def runs_named(run_dir: Path, name: str) -> list[Path]:
    """Return the runs that were created with a name, oldest first.

    Args:
        run_dir: the folder that holds runs.
        name: the name, as `create_run` took it.
    """
    slug = _slug(name)

    def is_named(run: Path) -> bool:
        if _name_of(run) == slug:
            return True
        # Further runs of one second are numbered.
        first, _, number = run.name.rpartition("-")
        is_numbered = number.isdecimal() and first.endswith(slug) and (run_dir / first).is_dir()
        return is_numbered and _name_of(run_dir / first) == slug

    return [run for run in run_directories(run_dir) if is_named(run)]


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")


def check_store_path(run: Path) -> None:
    """Check that SQLite can open the store of a run.

    Raises:
        RunPathError: the path is longer than SQLite allows.
    """
    size = len(os.fsencode((run / STORE_NAME).absolute()))
    if size > LONGEST_STORE_PATH:
        raise RunPathError(
            f"the path of the store, {run.name[:40]}…/{STORE_NAME}, would be {size} bytes long; at "
            f"most {LONGEST_STORE_PATH} are possible: choose a --run-dir with a shorter path"
        )


def run_directories(run_dir: Path, *, now: float | None = None) -> list[Path]:
    """Return the runs in a folder, oldest first; none if there is no such folder.

    Runs with a creation time in the future come first: a clock was ahead, and otherwise they would
    stay the newest.

    Args:
        run_dir: the folder that holds runs.
        now: current time in seconds since the epoch; by default the system's.
    """
    latest = _latest_stamp(now)
    return sorted(_runs_in(run_dir), key=lambda run: (_stamp_of(run) <= latest, *_age_key(run)))


def is_of_the_future(run: Path, *, now: float | None = None) -> bool:
    """Return whether the creation time of a run is in the future: a clock was ahead."""
    return _stamp_of(run) > _latest_stamp(now)


def _latest_stamp(now: float | None) -> str:
    now = time.time() if now is None else now
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime(now + _CLOCK_TOLERANCE))


def find_run(run_dir: Path, reference: str | None = None) -> Path:
    """Return the directory of a run.

    Args:
        run_dir: the folder that holds runs.
        reference: an id, a unique prefix of an id, a unique name, or the path of a run; None for
            the newest run.

    Raises:
        RunNotFoundError: no run or several match; the message names candidates.
    """
    runs = run_directories(run_dir)
    if reference is None:
        if not runs:
            raise RunNotFoundError(
                f"there is no run in {run_dir}: start one with `{command_line('esper', 'ppo')}`, "
                "or name the folder that holds runs with --run-dir"
            )
        return runs[-1]
    if not reference:
        raise RunNotFoundError(
            "an empty string is not a run: give an id, a prefix of an id, a name or a path"
        )
    matching = [run for run in runs if run.name.startswith(reference)]
    exact = [run for run in matching if run.name == reference]
    if exact or len(matching) == 1:
        return (exact or matching)[0]
    if matching:
        raise RunNotFoundError(
            f"{reference!r} matches {len(matching)} runs ({_listing(matching)}): "
            "give more of the id"
        )
    named = [run for run in runs if _name_of(run) == reference]
    if len(named) == 1:
        return named[0]
    if named:
        raise RunNotFoundError(
            f"{reference!r} is the name of {len(named)} runs ({_listing(named)}): give an id"
        )
    path = Path(reference).expanduser()
    if path.name == STORE_NAME and path.is_file():
        path = path.parent
    if is_run(path):
        return path
    raise RunNotFoundError(_not_found(reference, run_dir, runs))


def _not_found(reference: str, run_dir: Path, runs: list[Path]) -> str:
    if Path(reference).expanduser().exists():
        return f"{reference!r} is not a run: a run's folder holds a {STORE_NAME}"
    if not runs:
        return f"there is no run {reference!r}: {run_dir} holds no runs"
    containing = [run for run in runs if reference.lower() in run.name.lower()]
    names = {_name_of(run): run for run in runs}
    names |= {run.name: run for run in runs}
    close = [names[name] for name in get_close_matches(reference, names, n=3)]
    if near := containing or list(dict.fromkeys(close)):
        return f"there is no run {reference!r} in {run_dir}; did you mean {_listing(near)}?"
    return f"there is no run {reference!r} in {run_dir}; the newest there is {runs[-1].name}"


def _listing(runs: list[Path]) -> str:
    names = [run.name for run in runs]
    shown = ", ".join(names[-_CANDIDATES_SHOWN:])
    more = len(names) - _CANDIDATES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _runs_in(run_dir: Path) -> Iterator[Path]:
    try:
        entries = list(run_dir.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    except PermissionError as error:
        raise RunNotFoundError(f"{run_dir} cannot be listed: permission denied") from error
    yield from (entry for entry in entries if is_run(entry))


def is_run(path: Path) -> bool:
    """Return whether a folder is that of a run, which may have no store yet."""
    # A new run has no store yet, and a copied one may have any name.
    return path.is_dir() and (
        (path / STORE_NAME).exists() or _ID.fullmatch(path.resolve().name) is not None
    )


def _stamp_of(run: Path) -> str:
    matched = _ID.fullmatch(run.name)
    return matched[1] if matched else ""


def _name_of(run: Path) -> str:
    """Return the part of the id that comes from the run's name."""
    return run.name[len(_stamp_of(run)) :].lstrip("-")


def _age_key(run: Path) -> tuple[str, int, str]:
    # By length first, so that "-10" comes after "-9".
    return _stamp_of(run), len(run.name), run.name
