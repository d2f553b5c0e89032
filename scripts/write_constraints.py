"""Write constraints.txt: the versions that `uv sync` installed here, of Esper and all its extras.

uv sync && uv run python scripts/write_constraints.py
"""

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: What belongs to one PyTorch build and is chosen by it.
OF_TORCH = re.compile(r"nvidia-|cuda-|triton==")
VERSION_SPLIT = re.compile(r"python_full_version (<|>=) '(3\.\d+)'$")
HEAD = """\
# The versions that the tests passed with, for an installation that is the same everywhere:
#   pip install -c constraints.txt .
# PyTorch itself chooses the CUDA libraries that belong to it.
"""


def constraints_of(exported: Iterable[str]) -> list[str]:
    """Return the lines of constraints.txt.

    Args:
        exported: lines of `uv export`. A condition on the Python version is kept where it chooses
            between two versions; others say only where a package is needed at all.
    """
    lines = []
    for line in exported:
        pin, _, condition = (part.strip() for part in line.partition(";"))
        if not pin or OF_TORCH.match(pin):
            continue
        split = VERSION_SPLIT.match(condition)
        lines.append(f'{pin}; python_version {split[1]} "{split[2]}"' if split else pin)
    return lines


def main() -> None:
    """Write the file."""
    options = ("--all-extras", "--no-dev", "--no-hashes", "--no-emit-project", "--no-annotate")
    exported = subprocess.run(
        ["uv", "export", "-q", *options, "--no-header"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    text = HEAD + "\n".join(constraints_of(exported.splitlines())) + "\n"
    (ROOT / "constraints.txt").write_text(text)


if __name__ == "__main__":
    main()
