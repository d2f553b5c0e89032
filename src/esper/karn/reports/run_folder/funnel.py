"""The funnel of a set of runs: how many have a light, which light came on first, in which update.

There is one group for each value of a setting, or one group for all runs.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from esper.karn.reports.run_folder.run_query import setting_names, setting_of
from esper.karn.reports.run_folder.run_summary import RunSummary

#: Name used if a light is on but the first one is unknown.
UNKNOWN_FIRST: Final = "?"
STALLED: Final = "stalled"
#: Maximum number of values of a setting to group by.
_MOST_VALUES: Final = 24


@dataclass(frozen=True)
class FirstCount:
    """The number of runs in which one head or group lit first, and when."""

    name: str  # of the head or group; marked where only drills lit it
    runs: int
    updates: tuple[int, float, int] | None  # first, median and last; None if not known


@dataclass(frozen=True)
class FunnelGroup:
    """Runs with one value of a setting."""

    value: Any  # None for runs without it
    runs: int
    lit: int
    unknown: int  # runs that are not lit as far as is known, with a doubt
    first: tuple[FirstCount, ...]  # the most frequent first


@dataclass(frozen=True)
class Funnel:
    """The funnel of runs, grouped by a setting; without a setting, one group of all runs."""

    setting: str | None
    groups: tuple[FunnelGroup, ...]


def funnel_of(runs: Sequence[RunSummary], setting: str | None = None) -> Funnel:
    """Return the funnel of runs.

    Args:
        runs: the runs.
        setting: name of the setting to group by; None for one group.
    """
    grouped: dict[str, list[RunSummary]] = defaultdict(list)
    values: dict[str, Any] = {}
    for run in runs:
        value = None if setting is None else setting_of(run, setting)
        values[repr(value)] = value
        grouped[repr(value)].append(run)
    keys = sorted(grouped, key=lambda key: _sortable(values[key]))
    return Funnel(setting, tuple(_group(values[key], grouped[key]) for key in keys))


def varied_settings(runs: Sequence[RunSummary]) -> list[str]:
    """Return the settings to group by: those with several values, each of them in several runs."""
    found = []
    for name in setting_names(runs):
        values = {repr(setting_of(run, name)) for run in runs}
        if 1 < len(values) <= min(_MOST_VALUES, len(runs) // 2):
            found.append((len(values), name))
    return [name for _, name in sorted(found)]


def first_of(run: RunSummary) -> str:
    """Return the head or group that lit first in a run, marked if only drills lit it."""
    first = run.first_light
    if first is not None:
        return run.marked(first.light, first.name) if first.planted else first.name
    return UNKNOWN_FIRST if any(run.lights().values()) else STALLED


def _group(value: Any, runs: Sequence[RunSummary]) -> FunnelGroup:
    lit = [run for run in runs if run.is_lit]
    by_name: dict[str, list[RunSummary]] = defaultdict(list)
    for run in lit:
        by_name[first_of(run)].append(run)
    counts = [_count(name, found) for name, found in by_name.items()]
    counts.sort(key=lambda one: (-one.runs, one.name))
    unknown = sum(1 for run in runs if not run.is_lit and run.doubt.lights is not None)
    return FunnelGroup(value, len(runs), len(lit), unknown, tuple(counts))


def _count(name: str, runs: Sequence[RunSummary]) -> FirstCount:
    updates = [run.first_light.update for run in runs if run.first_light is not None]
    if not updates:
        return FirstCount(name, len(runs), None)
    return FirstCount(name, len(runs), (min(updates), median(updates), max(updates)))


def _sortable(value: Any) -> tuple[int, float, str]:
    if value is None:
        return 2, 0.0, ""
    if isinstance(value, int | float) and value == value:
        return 0, float(value), ""
    return 1, 0.0, str(value)
