"""Verdicts on values by the thresholds of their telemetry records."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from esper.leyline.records.record import TelemetryRecord
from esper.leyline.telemetry import GROUPS
from esper.leyline.thresholds import Thresholds


class Level(IntEnum):
    """Severity; a higher level is worse."""

    OK = 0
    NOTICE = 1  # worth knowing
    WARNING = 2  # worth a check
    CRITICAL = 3  # something is broken, or was


LEVEL_WORDS: Final = {
    Level.OK: "HEALTHY",
    Level.NOTICE: "NOTICE",
    Level.WARNING: "WARNING",
    Level.CRITICAL: "CRITICAL",
}


@dataclass(frozen=True)
class Verdict:
    """A level, and a sentence for each problem, the worst first."""

    level: Level = Level.OK
    reasons: tuple[str, ...] = ()


HEALTHY = Verdict()


def combine(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst level, and all reasons with those of the worst verdicts first."""
    by_level = sorted(verdicts, key=lambda verdict: -verdict.level)
    if not by_level:
        return HEALTHY
    reasons = tuple(reason for verdict in by_level for reason in verdict.reasons)
    return Verdict(by_level[0].level, reasons)


def judge_latches(inf: Mapping[str, bool], nan: Mapping[str, bool]) -> Verdict:
    """Return CRITICAL if any light is on, with a reason for each kind of light.

    Args:
        inf: whether a head or group was ever Inf, by name.
        nan: whether a head or group was ever NaN, by name.
    """
    reasons = []
    for word, lights in (("Inf", inf), ("NaN", nan)):
        lit = [GROUPS.get(name, name) for name, is_lit in lights.items() if is_lit]
        if lit:
            reasons.append(f"{word} seen in {', '.join(lit)}")
    return Verdict(Level.CRITICAL, tuple(reasons)) if reasons else HEALTHY


def judge_figure(record: TelemetryRecord, value: float | None, *, update: int = 1) -> Verdict:
    """Return WARNING if a figure is beyond the bounds of its record, or not finite.

    Args:
        record: the telemetry record of the figure.
        value: the figure; None (not measured yet) is healthy.
        update: updates completed; a record can exclude the first ones.
    """
    complaint = None if value is None else _complaint(record.thresholds, value, update)
    if value is None or complaint is None:
        return HEALTHY
    if record.thresholds.problem_of_one and value == 1:
        return Verdict(Level.WARNING, (record.thresholds.problem_of_one,))
    if record.thresholds.problem_of_many and math.isfinite(value):
        sentence = record.thresholds.problem_of_many.format(f"{value:.0f}")
        return Verdict(Level.WARNING, (sentence,))
    written = "" if complaint == _written(value) else f"{_written(value)}, "
    return Verdict(Level.WARNING, (f"{record.name} is {written}{complaint}",))


def judge_heads(
    record: TelemetryRecord, values: Mapping[str, float], *, update: int = 1
) -> Verdict:
    """Return `judge_figure` of all heads, with the heads that share a complaint in one reason."""
    heads: dict[str, list[str]] = {}
    for head, value in values.items():
        complaint = _complaint(record.thresholds, value, update)
        if complaint is not None:
            written = "" if complaint == _written(value) else f" ({_written(value)})"
            heads.setdefault(complaint, []).append(f"{head}{written}")
    if not heads:
        return HEALTHY
    reasons = (f"{record.name} is {what} in {', '.join(who)}" for what, who in heads.items())
    return Verdict(Level.WARNING, tuple(reasons))


def _complaint(bounds: Thresholds, value: float, update: int) -> str | None:
    is_judged = bounds.warn_above is not None or bounds.warn_below is not None
    if not is_judged or update < bounds.judged_from_update:
        return None
    if not math.isfinite(value):
        return None if bounds.nonfinite_is_legal else _written(value)
    if bounds.warn_above is not None and value > bounds.warn_above:
        return f"above {bounds.warn_above:g}"
    if bounds.warn_below is not None and value < bounds.warn_below:
        return f"below {bounds.warn_below:g}"
    return None


def _written(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    return f"{value:.3g}"
