"""Whether detection misses, invents or misnames faults: random faults, and clean updates.

    uv run python benchmarks/detection_campaign.py [--cases 10000] [--seed 0] [--only NUMBER]

Prints recall, innocent lights, false alarms and wrong attributions by family, and the number of
each failure, which `--only` repeats. Exits with 1 if there is any. The cases are in
`tests/support/detection`.
"""

import sys

from detection.campaign import main

if __name__ == "__main__":
    sys.exit(main())
