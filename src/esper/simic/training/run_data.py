"""The data that a run is trained on: recorded once, and compared whenever the run resumes."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from esper.leyline.durable_files import replace_file
from esper.simic.config import ConfigError

DATA_NAME = "data.json"
_LONGEST = 1 << 20  # bytes that are read at most


@dataclass(frozen=True)
class DataRecord:
    """The data of a run from one update on.

    Attributes:
        fingerprint: of the task's samples.
        after_update: updates that were done before; 0 for the data that the run began with.
    """

    fingerprint: str
    after_update: int


def read_records(run: Path) -> list[DataRecord]:
    """Return what a run was trained on, in order; nothing if that is not known.

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
    """Add the data that a run is trained on from now on; a reader never sees half a file.

    Raises:
        OSError: the disk does not take it.
    """
    records = [*read_records(run), DataRecord(fingerprint, after_update)]
    replace_file(run / DATA_NAME, [json.dumps([asdict(record) for record in records]).encode()])


def check_same_data(run: Path, task: str, fingerprint: str) -> None:
    """Check that a run resumes with the data it was last trained on.

    Raises:
        ConfigError: the data is not the same.
    """
    records = read_records(run)
    if records and records[-1].fingerprint != fingerprint:
        raise ConfigError(
            f"the data of {task} is not what {run.name} was trained on: bring the old data back, "
            "or resume with --data-changed to train on the new data from here on"
        )


def change_sentences(run: Path) -> list[str]:
    """Return a sentence for each time that the data of a run changed."""
    return [
        f"the data of this run changed after update {record.after_update} (--data-changed)"
        for record in read_records(run)[1:]
    ]
