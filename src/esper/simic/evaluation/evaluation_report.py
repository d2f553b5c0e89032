"""The report of `esper eval`: tables or JSON."""

from dataclasses import asdict
from typing import Any, Final

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from esper.leyline.version import VERSION
from esper.simic.evaluation.contest import MEASURES, Entry, Evaluation
from esper.simic.evaluation.outcomes import Outcomes
from esper.simic.evaluation.statistics import Estimate

#: Width of the tables in a file or a pipe.
WIDTH: Final = 120


def evaluation_text(evaluation: Evaluation) -> Group:
    """Return the standings, the contestants, and how to read the tables."""
    names = ", ".join(policy.name for policy in evaluation.policies)
    return Group(
        Text(
            f"{names}: {evaluation.episodes} episodes of {evaluation.task} never used in training, "
            f"{evaluation.steps} steps each, random seed {evaluation.rng_seed}\n"
        ),
        _standings(evaluation),
        Text(
            "\nTest accuracy and score are interquartile means with 95 % bootstrap intervals "
            f"{_runs_words(evaluation)}; the score is validation accuracy minus the price of "
            "parameters. "
            "P(agent better): the probability that the agent does better in one episode than the "
            "other contestant in another. Cost: multiply-adds of training one network, forward and "
            "backward. Always answering with the largest class has a test accuracy of "
            f"{evaluation.largest_class:.3f}.\n"
        ),
        _means(evaluation),
        Text(
            "\nP, same episode: the probability that the agent does better in the same episode, "
            "with the same first weights and order of data, in test accuracy and in score. Search: "
            "multiply-adds, in thousands of millions, of training the policy or of choosing among "
            "candidates; cost does not include them.\n"
        ),
        _descriptions(evaluation),
    )


def _runs_words(evaluation: Evaluation) -> str:
    runs = len(evaluation.policies)
    if runs == 1:
        return "of one training run: they hold for its other episodes, not for other runs"
    return f"for which the {runs} training runs and the episodes are resampled"


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 else "right")
    return table


def _standings(evaluation: Evaluation) -> Table:
    table = _table(
        "who", "test accuracy", "P(agent better)", "score", "P(agent better)", "parameters", "cost"
    )
    for entry in evaluation.entries:
        cells: list[str] = []
        for measure in MEASURES:
            standing = entry.standings[measure]
            better = standing.agent_better
            cells += [_estimate(standing.iqm), "" if better is None else _estimate(better, 2)]
        strata = entry.contestant.strata
        parameters = np.mean([outcomes.parameters for outcomes in strata])
        cells += [f"{parameters:,.0f}", _cost(strata)]
        table.add_row(Text(entry.contestant.name), *(Text(cell) for cell in cells))
    return table


def _means(evaluation: Evaluation) -> Table:
    table = _table(
        "who", "mean accuracy", "P, same episode", "mean score", "P, same episode", "search"
    )
    for entry in evaluation.entries:
        cells = []
        for measure in MEASURES:
            standing = entry.standings[measure]
            alike = standing.agent_better_alike
            cells += [_estimate(standing.mean), "" if alike is None else _estimate(alike, 2)]
        name = Text(entry.contestant.name)
        table.add_row(name, *(Text(cell) for cell in (*cells, _search(entry))))
    return table


def _descriptions(evaluation: Evaluation) -> Table:
    """Return the description of each contestant; for several policies, also the mean of each."""
    table = _table("who", "")
    table.columns[-1].justify = "left"
    for entry in evaluation.entries:
        contestant, name = entry.contestant, entry.contestant.name
        chosen = f"; best of {len(contestant.candidates)}" if contestant.candidates else ""
        for outcomes in contestant.strata:
            means = ""
            if len(contestant.strata) > 1:
                values = (getattr(outcomes, measure).mean() for measure in MEASURES)
                means = ": mean accuracy {:.3f}, mean score {:.3f}".format(*values)
            table.add_row(Text(name), Text(f"{outcomes.what}{chosen}{means}"))
            name = ""
    return table


def _search(entry: Entry) -> str:
    spent = entry.contestant.search_multiply_adds
    return f"{spent / 1e9:,.1f} G" if spent else ""


def _estimate(estimate: Estimate, digits: int = 3) -> str:
    low, high = f"{estimate.low:.{digits}f}", f"{estimate.high:.{digits}f}"
    return f"{estimate.value:.{digits}f} [{low}, {high}]"


def _cost(strata: tuple[Outcomes, ...]) -> str:
    return f"{np.mean([outcomes.multiply_adds for outcomes in strata]) / 1e6:,.0f} M"


def evaluation_as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return all figures, those of each episode included, as plain values."""
    return {
        "esper_version": VERSION,
        "policies": [
            {
                "name": policy.name,
                "episodes": policy.episodes,
                "training_seed": policy.config.rng_seed,
            }
            for policy in evaluation.policies
        ],
        "task": evaluation.task,
        "steps": evaluation.steps,
        "host_parameters": evaluation.host_parameters,
        "largest_class": evaluation.largest_class,
        "episodes": evaluation.episodes,
        "seed": evaluation.rng_seed,
        "contestants": [_entry_as_json(entry) for entry in evaluation.entries],
    }


def _entry_as_json(entry: Entry) -> dict[str, Any]:
    contestant = entry.contestant
    return {
        "name": contestant.name,
        "standings": {measure: asdict(standing) for measure, standing in entry.standings.items()},
        "strata": [_outcomes_as_json(outcomes) for outcomes in contestant.strata],
        "candidates": [_means_as_json(outcomes) for outcomes in contestant.candidates],
        "resized": [_means_as_json(outcomes) for outcomes in contestant.resized],
        "search_multiply_adds": contestant.search_multiply_adds,
    }


def _outcomes_as_json(outcomes: Outcomes) -> dict[str, Any]:
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in vars(outcomes).items()
    }


def _means_as_json(outcomes: Outcomes) -> dict[str, Any]:
    return {
        name: float(value.mean()) if isinstance(value, np.ndarray) else value
        for name, value in vars(outcomes).items()
    }
