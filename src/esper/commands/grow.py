"""`esper grow`: let a trained policy grow a network."""

import argparse
from pathlib import Path
from typing import Any

from esper.commands.options import POLICY_HELP, add_rng_seed, add_run_dir, add_verb, whole_number
from esper.commands.output import progress_on_stderr
from esper.leyline.task_names import BUILT_IN, WITH_PLACE

_LIMITS = {
    "--max-parameters": "parameters of the network",
    "--max-bytes": "bytes of its weights",
    "--max-multiply-adds": "multiply-adds of the network for one sample",
}


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
        "--finish",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="train the network to convergence, beside its host without growth, the same "
        "architecture from scratch and a plain network of similar size, and write the best of them "
        "in validation, or a smaller one that is as good (default: %(default)s)",
    )
    for name, what in _LIMITS.items():
        parser.add_argument(name, type=whole_number, metavar="N", help=f"maximum of {what}")
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help="time for growing and finishing; fewer steps and shorter training fit into it",
    )
    parser.add_argument(
        "--price",
        type=float,
        default=0.0,
        metavar="ACCURACY",
        help="validation accuracy that a network must win for each doubling of the parameters of "
        "the host without growth (default: %(default)s)",
    )
    parser.add_argument(
        "--onnx",
        action="store_true",
        help="also write model.onnx, checked with ONNX Runtime (needs the onnx extra)",
    )


def _grow(options: argparse.Namespace) -> int:
    from esper.services import policies
    from esper.simic.requests import Limits

    limits = Limits(
        options.max_parameters,
        options.max_bytes,
        options.max_multiply_adds,
        options.minutes,
        options.price,
    )
    grown = policies.grow(
        options.task,
        options.out,
        policy=options.policy,
        run_dir=options.run_dir,
        hosts=options.hosts,
        rng_seed=options.seed,
        steps=options.steps,
        onnx=options.onnx,
        finish=options.finish,
        limits=limits,
        progress=progress_on_stderr(),
    )
    from esper.simic.growing.growth_card import growth_summary

    print(growth_summary(grown))
    files = ", ".join(sorted(file.name for file in options.out.iterdir()))
    print(f"wrote {files} to {options.out}")
    return 0
