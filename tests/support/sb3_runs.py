"""Stable-Baselines3 trainings under `EsperCallback`, for tests."""

from contextlib import suppress

from sb3_models import ALGORITHMS, ROLLOUT

from esper.integrations.sb3 import EsperCallback
from esper.karn.sanctum.following.follower import RunFollower


def first_space(name):
    return ALGORITHMS[name][3][0]


def trained(folder, model, *callbacks, steps=3 * ROLLOUT, **options):
    """Train under a watch until the end, or until PyTorch rejects a NaN; return the watch."""
    callback = EsperCallback(run_dir=folder, **options)
    with suppress(ValueError):
        model.learn(steps, callback=[*callbacks, callback])
    assert callback.watch.failures == 0, callback.watch.last_failure
    return callback.watch


def snapshot_of(run):
    return RunFollower(run).catch_up().snapshot
