"""The folders of the ranks of a run, and the rank of this process.

Rank 0 writes to the run's folder, like a run with one process. Every other rank writes to a folder
of the same structure inside it, `ranks/001`, `ranks/002` and so on. No two processes write to the
same file, so files are as safe as in a run with one process.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final, TypeVar

from esper.leyline.files.checkpoint_file import CHECKPOINTS_NAME
from esper.leyline.files.durable_files import sync_directory

#: Folder in a run's folder with the stores of all ranks except rank 0.
RANKS_NAME: Final = "ranks"

_Path = TypeVar("_Path", bound=PurePath)
_RANK_NAME: Final = re.compile(r"\d{3,}")


@dataclass(frozen=True)
class Rank:
    """A process's rank in distributed training.

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
        """Whether it is the only process."""
        return self.world_size == 1


def rank_of_environment(environment: Mapping[str, str] | None = None) -> Rank:
    """Return the rank that torchrun, or a similar launcher, set for this process.

    If `RANK` and `WORLD_SIZE` are not set or not valid, it is rank 0 of 1.

    Args:
        environment: environment variables; default: those of the process.
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
    """Return the folder of a rank's store; for rank 0 it is the run's folder.

    Args:
        run: the run's folder.
        rank: number of the rank, counted from 0.
    """
    return run / RANKS_NAME / f"{rank:03}" if rank else run


def create_rank_folder(run: Path, rank: int) -> Path:
    """Create the folder of a rank if it does not exist, and return it.

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
    """Return the folders of all ranks except rank 0, by rank, in order.

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
    """Return the run and the rank of a rank's folder; None for any other folder.

    Args:
        folder: a folder, such as one returned by `rank_folder`.
    """
    absolute = folder.absolute()
    if absolute.parent.name != RANKS_NAME or not _RANK_NAME.fullmatch(absolute.name):
        return None
    return absolute.parent.parent, int(absolute.name)
