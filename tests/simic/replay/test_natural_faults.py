"""Replay names operation, line and operand of faults as they occur in nature.

uv run python benchmarks/replay_causes.py    runs every kind of natural fault three times
"""

import pytest
from natural_faults.campaign import Outcome, main, run_case
from natural_faults.causes import CAUSES

#: A sample of the benchmark's kinds: every group of causes, and each of the numbers that can break.
SAMPLE = (
    "infinite bias of a head",
    "weight of the features",
    "two heads at once",
    "huge weight of a head",
    "exploding LSTM",
    "fp16 weight",
    "fp16 observation",
    "bf16 weight",
    "loss scale NaN",
    "loss scale infinite",
    "overflowing observation",
    "value of what followed",
    "overflowing siblings",
    "initial state",
    "every choice forbidden",
    "huge learning rate",
    "learning rate NaN",
    "value coefficient",
    "entropy coefficient",
    "exploding ratio",
    "huge first moment",
    "step NaN",
    "step of -1",
    "beta2 of 1",
    "no eps",
    "user code: scaled_by_int",
    "user code: product_of_three",
    "user code: quotient_added",
    "user code: interpolated_with_number",
    "user code: lists_scaled",
    "user code: high_power",
    "user code: batched_product_with_alpha",
    "user code: constant_nan_tensor",
    "user code: where_with_log",
    "user code: squared_and_clamped_root",
)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_natural_fault_is_named_with_its_operation_line_and_operand(name: str) -> None:
    number = [cause.name for cause in CAUSES].index(name)
    outcome = run_case(number)
    assert outcome.name == name
    assert (outcome.place, outcome.words) == ("", "")


def test_the_benchmark_fails_below_its_share_and_prints_the_case(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong_once(number: int) -> Outcome:
        place = "operation mul, not add" if number == 3 else ""
        return Outcome(number, "reward", place, "", "overflow in mul")

    monkeypatch.setattr("natural_faults.campaign.run_case", wrong_once)
    assert main(["--cases", "8"]) == 1
    assert "wrong: case 3 (reward): operation mul, not add" in capsys.readouterr().out
    assert main(["--cases", "3"]) == 0
    assert "right operation and line: 100.00%" in capsys.readouterr().out
