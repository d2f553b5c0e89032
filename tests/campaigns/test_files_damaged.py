"""Campaign: files of a run damaged at random; each is whole, or one sentence says what is wrong.

    uv run pytest -m slow -n 0 -s tests/campaigns/test_files_damaged.py

`ESPER_CAMPAIGN` scales it (1.0 is full size), `ESPER_SEED` repeats it.
"""

import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from esper.growth.environment import observation
from esper.growth.tasks.loading import load_task
from esper.growth.tasks.task import InvalidTaskError
from esper.karn.sanctum.cockpit.settings import (
    Settings,
    SettingsError,
    read_settings,
    write_settings,
)
from esper.karn.store.run_files import acknowledgements
from esper.karn.store.run_files.latch_file import read_latch_file
from esper.karn.store.run_files.run_note import read_note, write_note
from esper.karn.store.run_files.side_files import SideFiles
from esper.karn.store.run_store import RunWriter, create_run
from esper.leyline.files.checkpoint_file import CheckpointError
from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.config import (
    ConfigError,
    TrainingConfig,
    check_same_settings,
    load_config,
    settings_of,
    write_config,
)
from esper.simic.replay.incidents import (
    Capsule,
    IncidentError,
    list_incidents,
    read_capsule,
    sighting_fields,
    write_capsule,
)
from esper.simic.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from esper.simic.training.run_data import read_records, record_data
from esper.tamiyo.policy import RecurrentPolicy
from esper.tamiyo.shipped import ShippedPolicyError, load_shipped_policy, save_policy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7_200)]
SCALE = float(os.environ.get("ESPER_CAMPAIGN", "1.0"))
CPU = torch.device("cpu")
CONFIG = TrainingConfig(episodes=9, inject=("op:inf@1",))
FEATURES = [feature.name for feature in observation.FEATURES]
OLD_RUN = Path(__file__).parents[1] / "support" / "data" / "format-2-run"
SEEN = NonfiniteSighting(head="op", quantity="logits", kind="nan", count=1, epoch=1, minibatch=1)
#: Longest time that one damaged file may take, in seconds.
PATIENCE = 10.0


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return data after one kind of damage."""
    changed = bytearray(data)
    place = chance.randrange(max(1, len(data)))
    match chance.randrange(7):
        case 0 if data:
            changed[place] ^= 1 << chance.randrange(8)
        case 1:
            changed[place : place + 16] = chance.randbytes(16)
        case 2:
            del changed[place:]
        case 3:
            del changed[place : place + chance.randrange(1, 64)]
        case 4:
            changed[place:place] = changed[: chance.randrange(1, 64)]
        case 5:
            changed[place : place + 512] = bytes(len(changed[place : place + 512]))
        case _:
            changed[place:place] = chance.choice(
                (b"[" * 5_000, b"9" * 4_400, b"\x1b]0;x\x07", b"{")
            )
    return bytes(changed)


def weights(checkpoint: Checkpoint) -> list[float]:
    found: list[float] = checkpoint.agent["policy"]["w"].tolist()
    return found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a file of each kind."""
    run = create_run(tmp_path, "damaged")
    write_config(CONFIG, run / "config.toml")
    agent = {"policy": {"w": torch.arange(64.0)}}
    checkpoint = Checkpoint(3, 6, 1, agent, [], settings=settings_of(CONFIG), latches=[(2, SEEN)])
    save_checkpoint(checkpoint, run / "checkpoints")
    capsule = Capsule(
        update=2,
        config=settings_of(CONFIG),
        agent=agent,
        rollout={},
        minibatches=[],
        minibatches_per_epoch=1,
        old_log_probs=torch.zeros(1),
        injections=[],
        sightings=sighting_fields([SEEN]),
        versions={},
        threads=1,
        device="cpu",
        torch_generator=torch.zeros(1),
    )
    write_capsule(run / "incidents", 1, capsule)
    record_data(run, "a fingerprint", 0)
    write_settings(Settings(), run / "sanctum.toml")
    acknowledgements.acknowledge(run, [("op", "nan")], "someone", 1.0)
    write_note(run, "a note")
    torch.manual_seed(0)
    policy = RecurrentPolicy(len(FEATURES), feature_size=4, lstm_size=4)
    save_policy(policy, FEATURES, 9, run)
    labels = np.arange(400) % 3
    np.savez(run / "data.npz", x=np.random.default_rng(0).normal(size=(400, 1, 8)), y=labels)
    shutil.copytree(OLD_RUN, run / "old")
    with RunWriter(run):
        pass
    return run


def look_at_checkpoint(path: Path) -> None:
    loaded = load_checkpoint(path, CPU)
    assert weights(loaded) == list(range(64))
    assert (loaded.update, loaded.latches) == (3, [(2, SEEN)])


def look_at_config(path: Path) -> None:
    # What may change when a run resumes may be damaged into another value that is possible.
    check_same_settings(load_config(path), settings_of(CONFIG), "the checkpoint")


def look_at_capsule(path: Path) -> None:
    assert all(incident.number == 1 for incident in list_incidents(path.parents[2]))
    capsule = read_capsule(path.parent)
    assert capsule.agent["policy"]["w"].tolist() == list(range(64))


def look_at_summary(path: Path) -> None:
    list_incidents(path.parents[2])
    read_capsule(path.parent)


def look_at_latches(path: Path) -> None:
    read_latch_file(path.parent)
    sightings = SideFiles(path.parent).records().sightings
    assert (2, SEEN) in sightings  # the checkpoint and the capsule have it


def look_at_acknowledgements(path: Path) -> None:
    acknowledgements.read(path.parent)


def look_at_data(path: Path) -> None:
    task = load_task(f"npz:{path}")
    assert task.train.labels.numel() > 0


def look_at_policy(path: Path) -> None:
    shipped = load_shipped_policy(FEATURES, path.parent)
    assert shipped.policy.state_dict().keys()


def look_at_old_checkpoint(path: Path) -> None:
    found = load_checkpoint(path, CPU)
    assert (found.update, found.episodes_done, found.is_sealed) == (2, 2, False)
    before = load_checkpoint(OLD_RUN / "checkpoints" / path.name, CPU)
    assert same(found.agent, before.agent)


def same(one: Any, other: Any) -> bool:
    """Return whether two states are the same, bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


#: Each kind of file, its readers, and the exceptions that they may raise.
FILES = {
    "checkpoints/update-000003.pt": (look_at_checkpoint, CheckpointError),
    "config.toml": (look_at_config, ConfigError),
    "incidents/0001/capsule.pt": (look_at_capsule, IncidentError),
    "incidents/0001/incident.json": (look_at_summary, IncidentError),
    "data.json": (lambda path: read_records(path.parent), ConfigError),
    "sanctum.toml": (read_settings, SettingsError),
    "latches.jsonl": (look_at_latches, ()),
    "acknowledgements.jsonl": (look_at_acknowledgements, ()),
    "note.txt": (lambda path: read_note(path.parent), ()),
    "data.npz": (look_at_data, InvalidTaskError),
    "policy.safetensors": (look_at_policy, ShippedPolicyError),
    "old/checkpoints/update-000002.pt": (look_at_old_checkpoint, CheckpointError),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_whole_or_one_sentence(run: Path, name: str) -> None:
    seed = int(os.environ.get("ESPER_SEED", time.time_ns() % 2**32))
    chance = random.Random(seed)
    path = run / name
    look, refusal = FILES[name]
    whole = path.read_bytes()
    look(path)
    refused, number = 0, 0
    for number in range(1, max(2, int(20_000 / len(FILES) * SCALE)) + 1):
        damaged = mutated(whole, chance)
        path.write_bytes(damaged)
        start = time.monotonic()
        sentence = None
        try:
            look(path)
        except refusal as error:
            sentence = str(error)
        if sentence is not None:
            refused += 1
            assert "\n" not in sentence, (seed, number)
            assert len(sentence) < 1_000, (seed, number)
        else:
            is_sealed = path.suffix in (".pt", ".safetensors") and "old" not in name
            assert damaged == whole or not is_sealed, (seed, number)
        assert time.monotonic() - start < PATIENCE, (seed, number)
    print(f"ESPER_SEED={seed} {name}: {number} mutations, {refused} refused")
