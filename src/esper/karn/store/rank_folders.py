"""Where the stores of a run with several ranks lie, and which rank this process is.

Rank 0 writes the run's folder, as a run of one process does. Every other rank writes a folder of
the same form inside it, `ranks/001`, `ranks/002` and so on. So no two processes write to one file,
and every file keeps the safety that it has in a run of one process.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final, TypeVar

from esper.leyline.files.checkpoint_file import CHECKPOINTS_NAME
from esper.leyline.files.durable_files import sync_directory

#: Folder of a run with the stores of all ranks but the first.
RANKS_NAME: Final = "ranks"

_Path = TypeVar("_Path", bound=PurePath)
_RANK_NAME: Final = re.compile(r"\d{3,}")


@dataclass(frozen=True)
class Rank:
    """The place of a process among those that train together.

    Attributes:
        rank: number of the process, counted from 0.
        world_size: number of processes.
        local_rank: number of the process on its machine, counted from 0.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_alone(self) -> bool:
        """Whether no other process trains with it."""
        return self.world_size == 1


def rank_of_environment(environment: Mapping[str, str] | None = None) -> Rank:
    """Return the rank that torchrun, or a launcher like it, gave this process.

    It is the only rank of one where `RANK` and `WORLD_SIZE` are not set, or are no ranks.

    Args:
        environment: the variables; by default those of the process.
    """
    given = os.environ if environment is None else environment
    try:
        rank, world_size = int(given["RANK"]), int(given["WORLD_SIZE"])
        local_rank = int(given.get("LOCAL_RANK", rank))
    except (KeyError, ValueError):
        return Rank()
    if not 0 <= rank < world_size or local_rank < 0:
        return Rank()
    return Rank(rank, world_size, local_rank)


def rank_folder(run: _Path, rank: int) -> _Path:
    """Return the folder in which a rank of a run has its store; for rank 0 the run's own.

    Args:
        run: the run's folder.
        rank: number of the rank, counted from 0.
    """
    return run / RANKS_NAME / f"{rank:03}" if rank else run


def create_rank_folder(run: Path, rank: int) -> Path:
    """Create the folder of a rank, unless it is there, and return it.

    Args:
        run: the run's folder; created if missing.
        rank: number of the rank, counted from 0.

    Raises:
        OSError: the folder cannot be created.
    """
    folder = rank_folder(run, rank)
    (folder / CHECKPOINTS_NAME).mkdir(parents=True, exist_ok=True)
    # A synced file is lost in a power failure if a folder above it is not synced.
    above = (folder, folder.parent, run) if rank else (folder,)
    for each in (*above, run.absolute().parent):
        sync_directory(each)
    return folder


def rank_folders(run: Path) -> dict[int, Path]:
    """Return the folders of all ranks of a run but rank 0, by rank, in order.

    Args:
        run: the run's folder.

    Raises:
        OSError: the folders cannot be listed.
    """
    try:
        names = os.listdir(run / RANKS_NAME)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    numbers = sorted(int(name) for name in names if _RANK_NAME.fullmatch(name))
    folders = {number: rank_folder(run, number) for number in numbers if number}
    return {number: folder for number, folder in folders.items() if folder.is_dir()}


def run_of_rank_folder(folder: Path) -> tuple[Path, int] | None:
    """Return the run and the rank that a folder belongs to; None if it is no rank's in a run.

    Args:
        folder: a folder, such as the one that `rank_folder` returns.
    """
    absolute = folder.absolute()
    if absolute.parent.name != RANKS_NAME or not _RANK_NAME.fullmatch(absolute.name):
        return None
    return absolute.parent.parent, int(absolute.name)
