"""Whether `esper.watch` misses, invents or misnames anything: real faults in many libraries' loops.

    uv run python benchmarks/watch_campaign.py [--cases 1000] [--seed 0] [--libraries sb3-ppo …]
        [--only NUMBER …]

Prints each failing case with the number that `--only` repeats, the classes of failing cases, and
recall, false alarms, right heads, right first operations and lines. Exits with 1 if they are not as
good as required. The cases are in `tests/support/watched_loops`.
"""

import sys

from watched_loops.campaign import main

if __name__ == "__main__":
    sys.exit(main())
