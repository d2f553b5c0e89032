"""Take the pictures of Sanctum in README and docs, each in dark and in light.

uv run python scripts/take_pictures.py RUN_DIRECTORY [--watched RUN_DIRECTORY] [--out FOLDER]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from esper.karn.sanctum.cockpit.capture import export_frame

SIZE: Final = (120, 40)
WATCHED_SIZE: Final = (120, 30)
SCREENS: Final = ("overview", "heads", "hosts")
THEMES: Final = ("dark", "light")
IMAGES: Final = Path(__file__).resolve().parents[1] / "docs" / "images"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a picture of each screen in each theme."""
    parser = argparse.ArgumentParser(description="Take the pictures of Sanctum in README and docs.")
    parser.add_argument("run", type=Path, metavar="RUN_DIRECTORY")
    parser.add_argument(
        "--watched", type=Path, metavar="RUN_DIRECTORY", help="a run of another library with a NaN"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=IMAGES)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    pictures = [(screen, screen, options.run, SIZE) for screen in SCREENS]
    if options.watched:
        pictures.append(("watched", "overview", options.watched, WATCHED_SIZE))
    for name, screen, run, size in pictures:
        for theme in THEMES:
            path = options.out / f"{name}-{theme}.svg"
            export_frame(run, path, size, screen=screen, theme=theme)
            sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
