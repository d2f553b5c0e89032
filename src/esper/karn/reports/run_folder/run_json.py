"""JSON form of summaries and funnels; see `docs/reference/json.md`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esper.karn.reports.run_folder.funnel import Funnel
from esper.karn.reports.run_folder.run_summary import RunSummary


def runs_as_json(
    run_dir: Path, query: str, total: int, runs: Sequence[RunSummary], funnel: Funnel | None
) -> dict[str, Any]:
    """Return the report of `esper runs --json`.

    Args:
        run_dir: the folder.
        query: the filter as given by the user.
        total: number of runs in the folder.
        runs: the matching runs, in order.
        funnel: their funnel; None if not requested.
    """
    report: dict[str, Any] = {"run_dir": str(run_dir), "filter": query, "total": total}
    report["runs"] = [_run_as_json(run) for run in runs]
    if funnel is not None:
        report["funnel"] = _funnel_as_json(funnel)
    return report


def _run_as_json(run: RunSummary) -> dict[str, Any]:
    lights = run.lights()
    first = run.first_light
    return {
        "run": run.run_id,
        "path": str(run.path),
        "status": str(run.status.kind),
        "reason": run.status.sentence,
        "name": run.name,
        "task": run.task,
        "library": run.library,
        "seed": run.rng_seed,
        "started_at": run.started_at,
        "update": run.update,
        "episodes_done": run.episodes_done,
        "episodes": run.episodes,
        "score": run.score,
        "best_score": run.best_score,
        "lit": {
            "inf": list(lights["Inf"]),
            "nan": list(lights["NaN"]),
            "stalled": run.is_stalled,
        },
        "lit_by_drills": [[word.lower(), name] for word, name in sorted(run.planted)],
        "first_light": None
        if first is None
        else {
            "light": first.light.lower(),
            "name": first.name,
            "update": first.update,
            "drill": first.planted,
            "rank": first.rank,
        },
        "doubt": run.doubt.sentence,
        "incidents": run.incidents,
        "note": run.note,
        "settings": run.settings,
        "world_size": run.world_size,
    }


def _funnel_as_json(funnel: Funnel) -> dict[str, Any]:
    return {
        "setting": funnel.setting,
        "groups": [
            {
                "value": group.value,
                "runs": group.runs,
                "lit": group.lit,
                "unknown": group.unknown,
                "first": [
                    {
                        "name": count.name,
                        "runs": count.runs,
                        "updates": None
                        if count.updates is None
                        else dict(zip(("first", "median", "last"), count.updates, strict=True)),
                    }
                    for count in group.first
                ],
            }
            for group in funnel.groups
        ],
    }
