"""The cockpit behind one page in a browser: a process of its own, driven through its pipes."""

import sys
from pathlib import Path

from esper.karn.sanctum.cockpit.opening import run_sanctum


def main(arguments: list[str]) -> None:
    """Open Sanctum where the server says: on pipes, so nothing here asks for a terminal.

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
