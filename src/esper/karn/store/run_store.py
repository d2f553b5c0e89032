"""The store of a run: names for writing it, reading it and finding it.

A run is one directory: `run.sqlite` (in WAL mode while live, one plain file when finished),
`config.toml`, `console.log` and `checkpoints/`. docs/store.md describes the tables.
"""

from esper.karn.store.errors import RunStoreError, RunStoreMissingError
from esper.karn.store.reading.run_reader import RunReader
from esper.karn.store.run_directory import (
    CONFIG_NAME,
    CONSOLE_NAME,
    STORE_NAME,
    RunNotFoundError,
    RunPathError,
    check_store_path,
    create_run,
    default_run_dir,
    find_run,
    run_directories,
)
from esper.karn.store.writing.run_writer import RunWriter
from esper.leyline.files.checkpoint_file import CHECKPOINTS_NAME

__all__ = [
    "CHECKPOINTS_NAME",
    "CONFIG_NAME",
    "CONSOLE_NAME",
    "STORE_NAME",
    "RunNotFoundError",
    "RunPathError",
    "RunReader",
    "RunStoreError",
    "RunStoreMissingError",
    "RunWriter",
    "check_store_path",
    "create_run",
    "default_run_dir",
    "find_run",
    "run_directories",
]
