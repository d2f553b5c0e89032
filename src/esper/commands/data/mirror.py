"""`esper mirror`: copy the figures of a run to experiment trackers."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper.commands.options import OptionError, add_run, add_run_dir, add_verb
from esper.commands.output import print_warning
from esper.karn.store.run_directory import find_run

if TYPE_CHECKING:
    from esper.karn.mirror.mirroring import MirrorResult
    from esper.services.launch.mirror_process import MirrorProcess


_UPDATES: Final = {0: "nothing new", 1: "1 update"}


def add_mirror(verbs: Any) -> None:
    """Add `mirror` to the verbs of `esper`."""
    parser = add_verb(
        verbs,
        "mirror",
        mirror_run,
        "copy a run's figures to experiment trackers until the run has ended",
    )
    add_run(parser)
    add_run_dir(parser)
    add_log_to(parser)
    parser.add_argument(
        "--once", action="store_true", help="copy the figures recorded so far, and exit"
    )


def add_log_to(parser: argparse.ArgumentParser) -> None:
    """Add --log-to, the trackers to copy figures to."""
    parser.add_argument(
        "--log-to",
        action="append",
        default=[],
        metavar="TRACKER[=PLACE]",
        help="experiment tracker to copy the run's figures to: wandb[=PROJECT], "
        "tensorboard[=FOLDER], trackio[=PROJECT] or mlflow[=EXPERIMENT]; may be repeated",
    )


def _print_result(one: "MirrorResult") -> None:
    updates = _UPDATES.get(one.updates, f"{one.updates} updates")
    print(f"{one.destination.label}: {updates}", flush=True)
    if one.failure is not None:
        print_warning(f"esper mirror: not everything was copied. {one.failure}")


@contextmanager
def mirrored(run: Path, log_to: Sequence[str]) -> Iterator["MirrorProcess"]:
    """Copy the figures of a run during training; at the end, wait until all are copied.

    Args:
        run: the run's directory.
        log_to: the values of --log-to; may be empty.
    """
    from esper.services.launch.mirror_process import MirrorProcess

    process = MirrorProcess(run, log_to)
    yield process
    if sentence := process.wait():
        print_warning(sentence)


def mirror_run(options: argparse.Namespace) -> int:
    """Copy the figures of a run to trackers; return the exit code."""
    if not options.log_to:
        raise OptionError("give at least one tracker, such as --log-to tensorboard")
    run = find_run(options.run_dir, options.run).absolute()
    from esper.karn.mirror.trackers import destination_of

    destinations = [destination_of(text, run) for text in dict.fromkeys(options.log_to)]
    from esper.karn.mirror.mirroring import mirror

    mirrored = mirror(
        run,
        destinations,
        lambda sentence: print_warning(f"esper mirror: {sentence}"),
        follow=not options.once,
        done=_print_result,
    )
    return 1 if any(one.failure for one in mirrored) else 0
