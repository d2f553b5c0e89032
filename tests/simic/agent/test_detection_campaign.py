"""A few hundred cases of the detection campaign.

uv run python benchmarks/detection_campaign.py    runs thousands
"""

from collections.abc import Iterator

import pytest
import torch
from detection_campaign import Outcome, main, run_case
from detection_faults import FAULTS
from detection_stage import HOSTILE


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors here are tiny: a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_nothing_is_missed_invented_or_misnamed() -> None:
    outcomes = [run_case(number) for number in range(300)]
    assert [outcome for outcome in outcomes if outcome.complaint] == []
    assert sum(outcome.is_fault for outcome in outcomes) == 150
    # Nothing in the campaign is there for show: all of it came up.
    names = {outcome.name for outcome in outcomes}
    assert names == {part.__name__ for part in (*FAULTS, *HOSTILE)}


def test_a_failure_is_told_with_its_number_and_in_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing_one(number: int) -> Outcome:
        is_fault = number % 2 == 1
        missed = number == 3
        return Outcome(number, "logits", is_fault, is_fault and not missed, "missed" * missed)

    monkeypatch.setattr("detection_campaign.run_case", missing_one)
    monkeypatch.setattr("sys.argv", ["detection_campaign", "--cases", "8"])
    assert main() == 1
    printed = capsys.readouterr().out
    assert "FAILED 3 logits: missed" in printed
    assert "75.00%  (3 of 4 faults)" in printed
