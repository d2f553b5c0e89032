"""`esper grow`: let a trained policy grow a network."""

import argparse
from pathlib import Path
from typing import Any

from esper.commands.options import POLICY_HELP, add_rng_seed, add_run_dir, add_verb, whole_number
from esper.commands.output import progress_on_stderr
from esper.leyline.task_names import BUILT_IN, WITH_PLACE


def add_grow(verbs: Any) -> None:
    """Add `grow` to the verbs of `esper`."""
    parser = add_verb(
        verbs,
        "grow",
        _grow,
        "let a trained policy grow a network, and write it as a PyTorch module",
    )
    parser.add_argument(
        "--task",
        required=True,
        metavar="TASK",
        help=f"task of the network: {', '.join((*BUILT_IN, *WITH_PLACE))}",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="new folder for the network"
    )
    parser.add_argument(
        "--policy",
        default="shipped",
        metavar="POLICY",
        help=f"{POLICY_HELP} (default: %(default)s)",
    )
    add_run_dir(parser)
    parser.add_argument(
        "--hosts",
        type=whole_number,
        default=1,
        metavar="N",
        help="number of networks to grow; the best by validation accuracy is written "
        "(default: %(default)s)",
    )
    add_rng_seed(parser, "the networks and their data")
    parser.add_argument(
        "--steps",
        type=whole_number,
        metavar="N",
        help="number of steps to grow (default: as in the training of the policy)",
    )
    parser.add_argument(
        "--onnx",
        action="store_true",
        help="also write model.onnx, checked with ONNX Runtime (needs the onnx extra)",
    )


def _grow(options: argparse.Namespace) -> int:
    from esper.services import policies

    grown = policies.grow(
        options.task,
        options.out,
        policy=options.policy,
        run_dir=options.run_dir,
        hosts=options.hosts,
        rng_seed=options.seed,
        steps=options.steps,
        onnx=options.onnx,
        progress=progress_on_stderr(),
    )
    from esper.simic.growing.growth_card import growth_summary

    print(growth_summary(grown))
    files = ", ".join(sorted(file.name for file in options.out.iterdir()))
    print(f"wrote {files} to {options.out}")
    return 0
