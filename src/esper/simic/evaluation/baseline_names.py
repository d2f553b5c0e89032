"""The names of the baselines, in a module that does not import torch."""

from importlib.util import find_spec

from esper.leyline.errors import EsperError
from esper.leyline.text.command_lines import install_command
from esper.leyline.text.suggestions import did_you_mean

#: Each baseline, in the order of reports, and what it is.
BASELINES = {
    "none": "the host without growth",
    "none-tuned": "the same at the best of eight learning-rate schedules",
    "none-same-cost": "the same, trained until the agent's multiply-adds are spent",
    "random": "a legal op, slot and all other choices, each drawn uniformly",
    "random-plan": "a random seed in every slot, blended in at once",
    "random-best": "the best of many random plans, searched for at the agent's total cost",
    "constant": "the agent's most frequent plan, played without looking",
    "heuristic": "the best hand-written rule, at the agent's steps and at its cost",
    "static": "the best fixed network of the agent's size, at the best of eight schedules",
    "halving": "the same, searched for by successive halving at the agent's total cost",
    "cnn": "a plain PyTorch network of the agent's size",
    "same-architecture": "the agent's networks from their first step, at its steps and at its cost",
}
#: Baselines that search for as long as the agent was trained.
SEARCHES = ("random-best", "halving")
#: What a policy is compared with by default: every baseline that takes less than its training.
DEFAULT_BASELINES = tuple(name for name in BASELINES if name not in SEARCHES)
#: Stands for every baseline.
ALL = "all"
#: Baselines that run with another one, by their own names.
_COMES_WITH = {"heuristic-same-cost": "heuristic", "same-cost": "same-architecture"}


class UnknownBaselineError(EsperError, ValueError):
    """There is no baseline of this name."""


class MissingSearchLibraryError(EsperError, ImportError):
    """A baseline needs a library that is not installed."""


def parse_baselines(text: str) -> tuple[str, ...]:
    """Return the baselines in a comma-separated list, or `all`, each once, in the order given.

    Raises:
        UnknownBaselineError: one of them is unknown, or none is named.
        MissingSearchLibraryError: Optuna is not installed, and `halving` is named.
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
