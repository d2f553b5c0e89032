"""The data that a run is trained on: recorded at its start, and compared at each resume."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from esper.leyline.files.durable_files import replace_file
from esper.simic.config import ConfigError

DATA_NAME = "data.json"
_LONGEST = 1 << 20  # largest file that is read, in bytes


@dataclass(frozen=True)
class DataRecord:
    """The data of a run after one of its updates.

    Attributes:
        fingerprint: fingerprint of the task's samples.
        after_update: number of updates before; 0 for the data that the run began with.
    """

    fingerprint: str
    after_update: int


def read_records(run: Path) -> list[DataRecord]:
    """Return the data of a run, oldest first; an empty list if there is no record.

    Runs of built-in tasks have no record: their data cannot change.

    Raises:
        ConfigError: the record cannot be read.
    """
    path = run / DATA_NAME
    try:
        with path.open("rb") as file:
            entries = json.loads(file.read(_LONGEST))
        return [DataRecord(str(e["fingerprint"]), int(e["after_update"])) for e in entries]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(
            f"{path}, the record of the run's data, is damaged: remove it to resume without "
            "comparing the data"
        ) from error


def record_data(run: Path, fingerprint: str, after_update: int) -> None:
    """Add a record of new data, atomically.

    Raises:
        OSError: it cannot be written.
    """
    records = [*read_records(run), DataRecord(fingerprint, after_update)]
    replace_file(run / DATA_NAME, [json.dumps([asdict(record) for record in records]).encode()])


def check_same_data(run: Path, task: str, fingerprint: str) -> None:
    """Check that a run resumes with the data it was last trained on.

    Raises:
        ConfigError: the data has changed.
    """
    records = read_records(run)
    if records and records[-1].fingerprint != fingerprint:
        raise ConfigError(
            f"the data of {task} is not what {run.name} was trained on: restore the old data, or "
            "resume with --data-changed to continue with the new data"
        )


def change_sentences(run: Path) -> list[str]:
    """Return a sentence for each change of a run's data."""
    return [
        f"the data of this run changed after update {record.after_update} (--data-changed)"
        for record in read_records(run)[1:]
    ]
