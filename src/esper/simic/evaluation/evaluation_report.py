"""The report of `esper eval`: tables or JSON."""

from dataclasses import asdict
from typing import Any, Final

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from esper.leyline.version import VERSION
from esper.simic.evaluation.arena import Outcomes
from esper.simic.evaluation.contest import MEASURES, Entry, Evaluation
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
            "\nTest accuracy and score are interquartile means with 95 % intervals (stratified "
            "bootstrap); the score is validation accuracy minus the price of parameters. "
            "P(agent better): the probability that the agent does better in one episode than the "
            "other contestant in another. Cost: multiply-adds of training one network, forward and "
            "backward. Always answering with the largest class has a test accuracy of "
            f"{evaluation.largest_class:.3f}.\n"
        ),
        _means(evaluation),
        Text(
            "\nP, same episode: the probability that the agent does better in the same episode, "
            "with the same first weights and order of data, in test accuracy and in score."
        ),
    )


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
    table = _table("who", "mean accuracy", "P, same episode", "mean score", "P, same episode", "")
    table.columns[-1].justify = "left"
    for entry in evaluation.entries:
        cells = []
        for measure in MEASURES:
            standing = entry.standings[measure]
            alike = standing.agent_better_alike
            cells += [_estimate(standing.mean), "" if alike is None else _estimate(alike, 2)]
        table.add_row(
            Text(entry.contestant.name), *(Text(cell) for cell in cells), Text(_what(entry))
        )
        if len(entry.contestant.strata) > 1 and entry.contestant.name == "agent":
            for outcomes in entry.contestant.strata:
                own = []
                for measure in MEASURES:
                    own += [f"{getattr(outcomes, measure).mean():.3f}", ""]
                table.add_row("", *(Text(cell) for cell in own), Text(outcomes.what))
    return table


def _what(entry: Entry) -> str:
    strata, candidates = entry.contestant.strata, entry.contestant.candidates
    if len(strata) > 1 and entry.contestant.name == "agent":
        return f"{len(strata)} policies:"
    what = strata[0].what
    return f"{what}; best of {len(candidates)}" if candidates else what


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
