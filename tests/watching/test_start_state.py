"""The copy of the state before an update."""

import torch
from torch import nn

from esper.watching.watch import Watch


def test_a_buffer_that_changes_its_size_does_not_use_up_the_limit() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("seen", torch.zeros(100))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = Watch([model], [optimizer], {"action": 2})
    watch.keep_start(limit=1000)
    for size in (101, 100) * 5:
        model.seen = torch.full((size,), float(size))
        with watch.updating():
            assert watch.keeps_start, size
    watch.close()


def test_a_state_above_the_limit_is_not_kept() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = Watch([model], [optimizer], {"action": 2})
    watch.keep_start(limit=20)
    with watch.updating():
        assert not watch.keeps_start
    watch.close()
