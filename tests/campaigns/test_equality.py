"""Campaign: k updates, a resume and k more equal 2k updates bit for bit, over random settings.

Compared are the last checkpoints and the content of the stores. The normal suite has one such case,
tests/simic/test_resume_equality.py.

    uv run pytest -m slow -n 0 -s tests/campaigns/test_equality.py

`ESPER_CAMPAIGN` scales it (1.0 is 200 settings), `ESPER_SEED` repeats it.
"""

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from run_equality import assert_resume_changes_nothing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(14_400)]
SCALE = float(os.environ.get("ESPER_CAMPAIGN", "1.0"))


def settings_of(chance: random.Random) -> dict[str, Any]:
    """Return random settings of a small run."""
    drill = chance.choice(((), (), ("op:inf@1",), ("slot:nan@1",)))
    return {
        "envs": chance.choice((1, 2, 3, 5, 16)),
        "steps": chance.randint(1, 4),
        "task": chance.choice(("mnist1d", "digits")),
        "seed": chance.randrange(2**31),
        "device": "cpu",
        "processes": chance.choice((1, 2)),
        "amp": chance.choice(("off", "off", "bf16")),
        "ppo_epochs": chance.randint(1, 4),
        "minibatches": chance.randint(1, 4),
        "learning_rate": chance.choice((1e-4, 3e-3, 3e-2)),
        "anneal_episodes": chance.choice((4, 100, 4800)),
        "gamma": chance.choice((0.9, 1.0)),
        "siblings": chance.choice((1, 2, 8)),
        "target_kl": chance.choice((0.0, 0.03)),
        "feature_size": chance.choice((4, 16)),
        "lstm_size": chance.choice((4, 16)),
        "checkpoint_every": chance.choice((1, 3)),
        "on_nonfinite": chance.choice(("skip", "rollback")),
        "nonfinite_patience": chance.choice((1, 5)),
        "inject": drill,
    }


def test_a_run_that_was_resumed_is_the_same_run(tmp_path: Path) -> None:
    seed = int(os.environ.get("ESPER_SEED", time.time_ns() % 2**32))
    number = max(1, int(200 * SCALE))
    print(f"ESPER_SEED={seed} ESPER_CAMPAIGN={SCALE}: {number} settings")
    chance = random.Random(seed)
    for case in range(number):
        settings = settings_of(chance)
        updates = chance.randint(1, 2)
        folder = tmp_path / str(case)
        folder.mkdir()
        assert_resume_changes_nothing(folder, updates, settings, (seed, case, settings))
    print(f"{number} settings, all equal")
