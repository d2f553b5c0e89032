"""The names of the baselines, in a module that does not import torch."""

from importlib.util import find_spec

from esper.leyline.errors import EsperError
from esper.leyline.text.command_lines import install_command
from esper.leyline.text.suggestions import did_you_mean

#: Descriptions of the baselines by name, in the order of reports.
BASELINES = {
    "none": "the host without growth",
    "none-tuned": "none with the best of eight learning-rate schedules",
    "none-same-cost": "none, trained with as many multiply-adds as the agent's networks",
    "random": "op, slot and all other choices drawn uniformly from the legal ones",
    "random-plan": "a random seed in every slot, germinated and blended as early as possible",
    "random-best": "the best of many random plans, found at the cost of the agent's training",
    "constant": "the agent's most frequent plan, repeated without observing the host",
    "heuristic": "the best hand-written rule, with the agent's steps and with its cost",
    "static": "the best fixed network of the agent's size, with the best of eight schedules",
    "halving": "the same, found by successive halving at the cost of the agent's training",
    "cnn": "a plain PyTorch network of the agent's size",
    "same-architecture": "the agent's final networks, trained from scratch with its steps and cost",
}
#: Baselines that search with as many multiply-adds as the agent's training used.
SEARCHES = ("random-best", "halving")
#: Baselines by default: those that do not search.
DEFAULT_BASELINES = tuple(name for name in BASELINES if name not in SEARCHES)
#: Selects every baseline.
ALL = "all"
#: Names of baselines that always run together with another one.
_COMES_WITH = {"heuristic-same-cost": "heuristic", "same-cost": "same-architecture"}


class UnknownBaselineError(EsperError, ValueError):
    """There is no baseline of this name."""


class MissingSearchLibraryError(EsperError, ImportError):
    """A baseline needs a library that is not installed."""


def parse_baselines(text: str) -> tuple[str, ...]:
    """Return the baselines in a comma-separated list or `all`, in the given order, without repeats.

    Raises:
        UnknownBaselineError: a name is unknown, or there is none.
        MissingSearchLibraryError: `halving` is named, but Optuna is not installed.
    """
    given = [name.strip() for name in text.split(",") if name.strip()]
    if given == [ALL]:
        given = list(BASELINES)
    names = tuple(dict.fromkeys(_COMES_WITH.get(name, name) for name in given))
    unknown = [name for name in names if name not in BASELINES]
    if unknown or not names:
        known = (ALL, *BASELINES, *_COMES_WITH)
        what = f"there is no baseline {unknown[0]!r}" if unknown else "no baseline is named"
        hint = did_you_mean(unknown[0], known) if unknown else ""
        takes = f"(--against takes {ALL}, or a comma-separated list of {', '.join(known[1:])})"
        raise UnknownBaselineError(f"{what} {takes}{hint}")
    if "halving" in names and find_spec("optuna") is None:
        raise MissingSearchLibraryError(
            f"the baseline halving needs optuna; install it with: {install_command('search')}"
        )
    return names
