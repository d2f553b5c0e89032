"""The process of one page: runs the cockpit on pipes instead of a terminal."""

import sys
from pathlib import Path

from esper.karn.sanctum.cockpit.opening import run_sanctum


def main(arguments: list[str]) -> None:
    """Run Sanctum with the arguments that the server passes.

    Args:
        arguments: the folder of runs, the run's directory or "", the theme or "", and "ascii" or
            "".
    """
    run_dir, directory, theme, signs = arguments
    run_sanctum(
        Path(directory) if directory else None,
        Path(run_dir),
        theme=theme or None,
        ascii_only=signs == "ascii",
    )


if __name__ == "__main__":
    main(sys.argv[1:])
