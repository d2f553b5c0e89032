"""`esper eval`: compare trained policies with baselines."""

import argparse
import sys
from pathlib import Path
from typing import Any

from esper.commands.options import POLICY_HELP, add_rng_seed, add_run_dir, add_verb, whole_number
from esper.commands.output import print_report, progress_on_stderr, try_to_write
from esper.leyline.text.json_text import json_text
from esper.simic.evaluation.baseline_names import (
    BASELINES,
    DEFAULT_BASELINES,
    SEARCHES,
    parse_baselines,
)


def add_eval(verbs: Any) -> None:
    """Add `eval` to the verbs of `esper`."""
    parser = add_verb(
        verbs,
        "eval",
        _eval,
        "compare trained policies with baselines on random seeds never used in training",
    )
    parser.add_argument(
        "policies",
        nargs="*",
        metavar="POLICY",
        help=f"{POLICY_HELP} (default: the newest run); several are evaluated together",
    )
    add_run_dir(parser)
    parser.add_argument(
        "--episodes",
        type=whole_number,
        default=64,
        metavar="N",
        help="episodes per policy and baseline (default: %(default)s)",
    )
    parser.add_argument(
        "--against",
        default=",".join(DEFAULT_BASELINES),
        metavar="LIST",
        help="comma-separated baselines, or all: "
        + "; ".join(f"{name} ({what})" for name, what in BASELINES.items())
        + f" (default: all but {' and '.join(SEARCHES)})",
    )
    parser.add_argument(
        "--search-episodes",
        type=whole_number,
        metavar="N",
        help="random-best and halving may each spend the multiply-adds of that many episodes of "
        "the agent on their search (default: as many as the agent was trained with)",
    )
    add_rng_seed(parser, "the evaluation")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.svg",
        help="plot accuracy against parameters and training cost",
    )


def _eval(options: argparse.Namespace) -> int:
    from esper.services import policies
    from esper.simic.requests import check_picture

    if options.plot is not None:
        check_picture(options.plot)
    result = policies.evaluate(
        options.policies,
        run_dir=options.run_dir,
        episodes=options.episodes,
        against=parse_baselines(options.against),
        rng_seed=options.seed,
        search_episodes=options.search_episodes,
        progress=progress_on_stderr(),
    )
    from esper.karn.text.plain_console import PlainConsole
    from esper.simic.evaluation import evaluation_report
    from esper.simic.evaluation.evaluation_plot import evaluation_plot

    plot: Path | None = options.plot
    error = None if plot is None else try_to_write(plot, evaluation_plot(result))
    if options.json:
        print(json_text(evaluation_report.evaluation_as_json(result)))
    else:
        width = None if sys.stdout.isatty() else evaluation_report.WIDTH
        print_report(evaluation_report.evaluation_text(result), PlainConsole(width=width))
    if error is not None:
        raise error
    return 0
