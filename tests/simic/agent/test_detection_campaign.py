"""A share of the detection campaign, and that the campaign itself notices what is wrong.

uv run python benchmarks/detection_campaign.py    runs all of it
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from random import Random
from typing import Any

import msgspec
import pytest
import torch
from detection.backgrounds import HOSTILE
from detection.campaign import CYCLE, FAULTS, Outcome, main, run_case
from detection.reference import scanning
from detection.shared_faults import features
from detection.stage import Sight, Stage
from detection.state_faults import GIVEN_FAULTS
from detection.verdict import (
    ATTRIBUTION,
    FALSE_ALARM,
    INNOCENT,
    MISSED,
    complaint_of_clean,
    complaint_of_faults,
)

from esper.leyline.telemetry import SHARED, NonfiniteSighting
from esper.simic.agent.figures import UpdateResult


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors here are tiny: a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_nothing_is_missed_invented_or_misnamed() -> None:
    outcomes = [run_case(number) for number in range(240)]
    assert [outcome for outcome in outcomes if outcome.complaint] == []
    assert {outcome.family for outcome in outcomes} == set(CYCLE)
    # Every fault and every background has its turn.
    names = {outcome.name for outcome in outcomes}
    assert {fault.name for fault in (*FAULTS, *GIVEN_FAULTS)} <= names
    assert {background.__name__ for background in HOSTILE} <= names


#: Cases of longer campaigns that were once judged wrongly.
MENDED = (
    *(7000862, 7001003, 7001846, 7001869, 7002726, 7005579, 7006545, 7007088, 7007679, 7009808),
    *(7009956, 8000202, 8000415, 8000469, 8000731, 8000829, 8000831, 8000869, 8000943, 8001503),
    *(8001891, 9001805, 9002437, 11004111, 11005863, 11007017, 12005331, 41000943, 51001971),
    *(51008311, 61002171, 61002637, 61006489, 62003351, 62009591, 63005036, 65006976),
)


@pytest.mark.parametrize("number", MENDED)
def test_what_was_mended_stays_right(number: int) -> None:
    assert run_case(number).complaint == ""


def test_a_failure_is_printed_with_its_number_and_sets_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing_one(number: int) -> Outcome:
        family = "lasting" if number % 2 else "clean"
        wrong = (MISSED, "op logits") if number == 3 else ("", "")
        return Outcome(number, family, "logits", *wrong)

    monkeypatch.setattr("detection.campaign.run_case", missing_one)
    assert main(["--cases", "8"]) == 1
    printed = capsys.readouterr().out
    assert "FAILED 3 lasting: logits: missed: op logits" in printed
    assert "75.00% (3 of 4) of faults" in printed
    assert "missed: 3" in printed


@pytest.fixture
def _nan_in_unfilled_memory() -> Iterator[None]:
    """In this mode PyTorch fills the memory that `torch.empty` and its like return with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_nan_in_unfilled_memory")
def test_the_scan_is_silent_on_a_clean_update_and_sees_what_breaks() -> None:
    with ExitStack() as exits:
        stage = Stage(Random(1), exits, amp="off")
        with scanning(stage) as scan:
            stage.update()
        assert scan.created == []
        assert not scan.saw_nan
        stage.plan_again()
        features(stage, stage.where())
        with scanning(stage) as scan:
            stage.update()
        assert scan.saw_nan


def test_a_transient_fault_fires_in_the_first_pass_only() -> None:
    for number in range(6):
        with ExitStack() as exits:
            stage = Stage(Random(number), exits, amp="off")
            features(stage, stage.where(lasting=False))
            stage.update()
            assert {turn for _, turn in stage.fired} == {1}


# The verdict: reports made by hand, each with one thing wrong.


@pytest.fixture(scope="module")
def clean_result() -> UpdateResult:
    with ExitStack() as exits:
        return Stage(Random(0), exits, amp="off").update()


def _report(
    result: UpdateResult,
    *sightings: NonfiniteSighting,
    reproduced: bool = True,
    **changes: object,
) -> UpdateResult:
    nan = {
        head: any((seen.head, seen.kind) == (head, "nan") for seen in sightings)
        for head in result.head_nan_detected
    }
    figures = msgspec.structs.replace(
        result.figures, head_nonfinite=list(sightings), head_nan_detected=nan, **changes
    )
    return replace(result, figures=figures, reproduced=reproduced)


def _seen(head: str, quantity: str, **fields: object) -> NonfiniteSighting:
    settings: dict = {"epoch": 1, "minibatch": 2, "last_epoch": 1, "last_minibatch": 2}
    settings |= {"kind": "nan", "count": 1, "host": 3, "step": 2} | fields
    return NonfiniteSighting(head=head, quantity=quantity, **settings)


def _expected(head: str, quantity: str) -> Sight:
    return Sight(head, quantity, "nan", (("update", 1, 2),), last=(1, 2), host=3, step=2)


def test_a_right_report_has_no_complaint(clean_result: UpdateResult) -> None:
    head = next(iter(clean_result.head_nan_detected))
    right = _report(clean_result, _seen(head, "logits"), _seen(head, "log_prob"))
    assert complaint_of_faults(right, [_expected(head, "logits")]) is None
    assert complaint_of_clean(clean_result) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "+inf"}, {"epoch": 2}, {"last_minibatch": 3}, {"host": 2}, {"step": None},
        {"phase": "preparation"}, {"reproduced": False},
    ],
)  # fmt: skip
def test_a_wrong_detail_is_a_complaint(clean_result: UpdateResult, wrong: dict) -> None:
    report = _report(clean_result, _seen(SHARED, "trunk", **wrong))
    complaint = complaint_of_faults(report, [_expected(SHARED, "trunk")])
    assert complaint is not None
    assert complaint[0] == (MISSED if "kind" in wrong else ATTRIBUTION)


def test_what_is_missed_invented_or_lit_for_nothing_is_a_complaint(
    clean_result: UpdateResult,
) -> None:
    first, second = [*clean_result.head_nan_detected][:2]
    expected = [_expected(first, "logits")]

    def sort(*sightings: NonfiniteSighting, **changes: Any) -> str:
        complaint = complaint_of_faults(_report(clean_result, *sightings, **changes), expected)
        return complaint[0] if complaint else ""

    seen = _seen(first, "logits")
    assert sort(seen) == ""
    assert sort() == MISSED
    assert sort(seen, _seen(second, "logits")) == INNOCENT
    assert sort(seen, _seen(SHARED, "loss")) == ATTRIBUTION
    assert sort(_seen(first, "logits", epoch=1, minibatch=1, kind="-inf"), seen) == ATTRIBUTION
    assert sort(seen, reproduced=False) == ATTRIBUTION
    assert sort(seen, head_inf_detected={first: True, second: False}) == INNOCENT
    alarm = complaint_of_clean(_report(clean_result, seen))
    assert alarm is not None
    assert alarm[0] == FALSE_ALARM
