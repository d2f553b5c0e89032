"""Whether a replay names the right operation, line and operand for faults as they occur in nature.

    uv run python benchmarks/replay_causes.py [--cases 330] [--first 0] [--only NUMBER]

Prints a line per kind of fault, the number of every wrong case (`--only` repeats it), and the
shares. Exits with 1 if the operation and line, or the words of the cause, are right in fewer than
99 % of the cases. The faults are in `tests/support/natural_faults`.
"""

import sys

from natural_faults.campaign import main

if __name__ == "__main__":
    sys.exit(main())
