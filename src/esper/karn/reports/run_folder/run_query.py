"""Filters and orders of runs: a small query language for `esper runs`, `esper prune` and Sanctum.

A query consists of words separated by spaces, all of which must match. `docs/guides/many-runs.md`
describes them.
"""

import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from esper.karn.reports.run_folder.run_summary import RunSummary
from esper.karn.store.liveness import StatusKind
from esper.leyline.errors import EsperError
from esper.leyline.text.suggestions import did_you_mean

#: Figures of a run that can be compared, by name.
FIGURES: Final[dict[str, Callable[[RunSummary], float | int | None]]] = {
    "update": lambda run: run.update,
    "episodes": lambda run: run.episodes_done,
    "score": lambda run: run.score,
    "best": lambda run: run.best_score,
    "incidents": lambda run: run.incidents,
    "seed": lambda run: run.rng_seed,
    "started": lambda run: run.started_at,
    "lit_at": lambda run: None if run.first_light is None else run.first_light.update,
}
#: Text fields of a run; a filter matches a part of the text.
_TEXTS: Final[dict[str, Callable[[RunSummary], str]]] = {
    "run": lambda run: run.run_id,
    "name": lambda run: run.name,
    "task": lambda run: run.task,
    "library": lambda run: run.library,
    "note": lambda run: run.note,
}
#: Orders by name, in the screen's order: the key, and whether the largest value is first.
_ORDERS: Final[dict[str, tuple[Callable[[RunSummary], Any], bool]]] = {
    "newest": (lambda run: run.run_id, True),
    "score": (lambda run: _or_lowest(run.score), True),
    "best": (lambda run: _or_lowest(run.best_score), True),
    "incidents": (lambda run: run.incidents, True),
    "status": (lambda run: str(run.status.kind), False),
    "name": (lambda run: (run.name or run.run_id).lower(), False),
}
ORDERS: Final = tuple(_ORDERS)
_KINDS_OF_LIGHT: Final = {"nan": "NaN", "inf": "Inf"}
_SETTING: Final = "setting."
_COMPARED: Final = re.compile(r"([^\s<>=!:]+)(>=|<=|!=|>|<|=|:)(.*)", re.DOTALL)
_HOLDS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">=": lambda one, other: one >= other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    "<": lambda one, other: one < other,
}

Matches = Callable[[RunSummary], bool]


class QueryError(EsperError, ValueError):
    """A query is invalid; the message is one sentence."""


@dataclass(frozen=True)
class RunQuery:
    """A filter and an order of runs.

    Attributes:
        text: the query as given by the user.
        terms: conditions that a run must meet.
        order: name of an order, a figure or a setting; empty for the order of creation.
        is_reversed: whether the order is reversed.
        keys: names in the query that must be settings of some run.
    """

    text: str = ""
    terms: tuple[Matches, ...] = ()
    order: str = ""
    is_reversed: bool = False
    keys: tuple[str, ...] = ()

    def select(self, runs: Sequence[RunSummary]) -> list[RunSummary]:
        """Return the runs that match, in the order of the query.

        Args:
            runs: oldest first.

        Raises:
            QueryError: a name in the query is neither a figure nor a setting of any run.
        """
        self._check_keys(runs)
        found = [run for run in runs if all(term(run) for term in self.terms)]
        return in_order(found, self.order, is_reversed=self.is_reversed)

    def _check_keys(self, runs: Sequence[RunSummary]) -> None:
        for key in self.keys:
            check_setting(runs, key, [*FIGURES, *_TEXTS, "lit", "first", "status"])


def parse_query(words: Iterable[str], *, sort: str = "") -> RunQuery:
    """Parse a query.

    Args:
        words: the words; one item may contain several words, separated by spaces outside of quotes.
        sort: the order, as after `sort:`; a word `sort:` overrides it.

    Raises:
        QueryError: a word is not a filter; the message says what is expected.
    """
    words = list(words)
    text = " ".join(words)
    try:
        parts = [part for word in words for part in shlex.split(word)]
    except ValueError:
        raise QueryError(f"a quotation mark in {text!r} has no partner: close it") from None
    terms: list[Matches] = []
    keys: list[str] = []
    for part in parts:
        if part.startswith("sort:"):
            sort = part.removeprefix("sort:")
            if not sort:
                raise QueryError(f"sort: needs a name, such as {', '.join(ORDERS)} or a setting")
        else:
            terms.append(_term(part, keys))
    order = sort.removeprefix("-")
    if order and order not in _ORDERS and order not in FIGURES:
        keys.append(order)
    return RunQuery(text, tuple(terms), order, sort.startswith("-"), tuple(keys))


def in_order(
    runs: Sequence[RunSummary], order: str, *, is_reversed: bool = False
) -> list[RunSummary]:
    """Return runs in an order.

    Args:
        runs: oldest first.
        order: one of `ORDERS`, or the name of a figure or a setting; empty for oldest first.
            Figures are sorted largest first, settings smallest first, missing values last.
        is_reversed: whether to reverse it.
    """
    if not order:
        return list(reversed(runs)) if is_reversed else list(runs)
    newest_first = list(reversed(runs))  # equal keys: the newest first
    if order in _ORDERS:
        key, is_descending = _ORDERS[order]
        return sorted(newest_first, key=key, reverse=is_descending != is_reversed)
    is_descending = (order in FIGURES) != is_reversed
    value_of = FIGURES.get(order) or (lambda run: setting_of(run, order))
    valued = [(value_of(run), run) for run in newest_first]
    there = [(_sortable(value), run) for value, run in valued if not _is_missing(value)]
    there.sort(key=lambda one: one[0], reverse=is_descending)
    return [run for _, run in there] + [run for value, run in valued if _is_missing(value)]


def setting_of(run: RunSummary, name: str) -> Any:
    """Return a setting of a run; a dot selects a nested setting. None if it does not exist."""
    found: Any = run.settings
    name = name.removeprefix(_SETTING)
    if name in found:
        return found[name]
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def check_setting(runs: Sequence[RunSummary], name: str, others: Sequence[str] = ()) -> None:
    """Check that some run has a setting.

    Args:
        runs: all runs of the folder; if there are none, any name is accepted.
        name: name of the setting.
        others: further names for suggestions.

    Raises:
        QueryError: no run has it.
    """
    if runs and all(setting_of(run, name) is None for run in runs):
        hint = did_you_mean(name, [*others, *setting_names(runs)])
        raise QueryError(
            f"no run has a setting {name!r}"
            f"{hint or '; `esper runs --json` lists the settings of each run'}"
        )


def setting_names(runs: Iterable[RunSummary]) -> list[str]:
    """Return the names of all settings of runs, in alphabetical order."""
    return sorted({name for run in runs for name in run.settings})


def searched_text(run: RunSummary) -> str:
    """Return the searchable text of a run, in lower case."""
    lit = [f"{word} {name}" for word, names in run.lights().items() for name in names]
    lit += ["stalled"] if run.is_stalled else []
    parts = (run.run_id, run.name, run.task, run.library, str(run.status.kind), run.note, *lit)
    return " ".join(parts).lower()


def _term(word: str, keys: list[str]) -> Matches:
    """Parse a word into a condition; if it names a setting, add the name to `keys`."""
    if word.startswith("not:"):
        if word == "not:":
            raise QueryError("not: needs a filter after it, such as not:lit")
        inner = _term(word.removeprefix("not:"), keys)
        return lambda run: not inner(run)
    if word == "lit":
        return lambda run: run.is_lit
    found = _COMPARED.fullmatch(word)
    if found is None:
        plain = word.lower()
        return lambda run: plain in searched_text(run)
    key, sign, value = found[1], found[2], found[3]
    if not value:
        raise QueryError(f"{word!r} has no value: write for example {key}{sign}1")
    values = value.split(",")
    if key in ("lit", "first"):
        _check_equal(word, key, sign)
        is_lit = _lit_by if key == "lit" else _first_by
        return lambda run: any(is_lit(run, one.lower()) for one in values)
    if key == "status":
        _check_equal(word, key, sign)
        kinds = {_status_of(one) for one in values}
        return lambda run: run.status.kind in kinds
    if key in _TEXTS:
        _check_equal(word, key, sign)
        text_of = _TEXTS[key]
        parts = [one.lower() for one in values]
        return lambda run: any(one in text_of(run).lower() for one in parts)
    if key not in FIGURES:
        keys.append(key)
    return _comparison(word, key, sign, value)


def _comparison(word: str, key: str, sign: str, value: str) -> Matches:
    """Return a condition that compares a figure or a setting with a value."""
    value_of: Callable[[RunSummary], Any] = FIGURES.get(key) or (lambda run: setting_of(run, key))
    if sign in _HOLDS:
        holds, number = _HOLDS[sign], _number(value)
        if number is None or math.isnan(number):
            raise QueryError(f"{word!r} compares with {value!r}, which is not a number")

        def compares(run: RunSummary) -> bool:
            known = value_of(run)
            is_number = isinstance(known, int | float) and not isinstance(known, bool)
            return is_number and holds(known, number)

        return compares
    values = value.split(",")
    if sign == "!=":
        return lambda run: not any(_equals(value_of(run), one) for one in values)
    return lambda run: any(_equals(value_of(run), one) for one in values)


def _check_equal(word: str, key: str, sign: str) -> None:
    if sign not in (":", "="):
        raise QueryError(f"{word!r} compares {key} with {sign}, but it only goes with {key}:…")


def _status_of(name: str) -> StatusKind:
    try:
        return StatusKind(name.upper())
    except ValueError:
        known = [kind.lower() for kind in StatusKind]
        hint = did_you_mean(name, known)
        among = hint or f": it is one of {', '.join(known)}"
        raise QueryError(f"there is no status {name!r}{among}") from None


def _lit_by(run: RunSummary, name: str) -> bool:
    """Return whether a light is on: of a head or group, or `nan`, `inf`, `stalled`, `drill`."""
    if name == "stalled":
        return run.is_stalled
    lights = run.lights()
    if name in _KINDS_OF_LIGHT:
        return bool(lights[_KINDS_OF_LIGHT[name]])
    if name == "drill":
        return bool(run.planted)
    return any(name == one.lower() for names in lights.values() for one in names)


def _first_by(run: RunSummary, name: str) -> bool:
    first = run.first_light
    return first is not None and name in (first.name.lower(), first.light.lower())


def _equals(known: Any, value: str) -> bool:
    """Return whether a figure or setting equals a query's text, as a number or else as text."""
    if known is None:
        return value.lower() == "none"
    if isinstance(known, bool):
        return value.lower() == str(known).lower()
    if isinstance(known, int | float):
        number = _number(value)
        if number is None:
            return False
        return number == known or (math.isnan(number) and math.isnan(known))
    return str(known).lower() == value.lower()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _sortable(value: Any) -> tuple[int, Any]:
    """Return a key that sorts numbers before texts."""
    return (0, value) if isinstance(value, int | float) else (1, str(value))


def _or_lowest(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else -math.inf
