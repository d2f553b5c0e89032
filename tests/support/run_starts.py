"""The start event of synthetic runs."""

from typing import Any

from esper.leyline.heads import BLUEPRINT_CHOICES, HEAD_CHOICES, SLOT_CHOICES
from esper.leyline.telemetry import RunStarted


def run_started(run: str, num_envs: int, **changes: Any) -> RunStarted:
    """Return a start event.

    Args:
        run: name of the run.
        num_envs: number of environments.
        changes: other values for fields of the event.
    """
    fields: dict[str, Any] = {
        "run_id": run,
        "name": run,
        "task": "mnist1d",
        "seed": 0,
        "device": "cpu",
        "threads": 1,
        "episodes": 1_000_000,
        "steps": 24,
        "environments": num_envs,
        "heads": {head: list(choices) for head, choices in HEAD_CHOICES.items()},
        "slots": list(SLOT_CHOICES),
        "blueprints": list(BLUEPRINT_CHOICES),
        "host_parameters": 858,
        "config": {},
        "pid": 1,
        "process_start_time": 0.0,
    }
    return RunStarted(**(fields | changes))
