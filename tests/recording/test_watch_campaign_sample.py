"""A sample of the campaign of watched loops: `benchmarks/watch_campaign.py` runs a thousand."""

import logging

import pytest
from watched_loops.campaign import LIBRARIES, run_case

#: Two clean cases and a fault of each kind, spread over the libraries.
NUMBERS = (*range(0, 33, 4), 40, 41, 44, *range(60, 75, 2), 147, 168, 232, 234, 258, 273, 278, 402)


@pytest.fixture(autouse=True)
def silent():
    log = logging.getLogger("esper")
    level = log.level
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(level)


@pytest.mark.parametrize("number", NUMBERS)
def test_case(number):
    outcome = run_case(number)

    assert outcome is not None
    assert not outcome.complaints, f"{outcome.fault} in {outcome.library}: {outcome.complaints}"


def test_the_sample_has_all_libraries():
    assert {number % len(LIBRARIES) for number in NUMBERS} == set(range(len(LIBRARIES)))
