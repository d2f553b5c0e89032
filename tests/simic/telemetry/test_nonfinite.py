"""The monitor without Esper's agent, as another policy would use it."""

import itertools
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline.quantities import HEAD_QUANTITIES, SHARED_QUANTITIES
from esper.leyline.telemetry import SHARED
from esper.simic.telemetry.nonfinite import KINDS, NonfiniteMonitor, detected, kinds_in

VALUES = st.sampled_from([0.0, 1e38, -1e38, 1e-45, float("nan"), float("inf"), float("-inf")])


@given(st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=1, max_size=6), st.randoms())
def test_kinds_are_those_that_a_loop_finds(rows: list[list[float]], random: object) -> None:
    values = torch.tensor(rows)
    counted = torch.tensor([[random.random() < 0.7 for _ in row] for row in rows])
    found = kinds_in(values, counted)
    for column in range(3):
        for number, kind in enumerate(("nan", "inf", "-inf")):
            expected = any(
                str(row[column]) == kind and counts[column]
                for row, counts in zip(values.tolist(), counted.tolist(), strict=True)
            )
            assert found[column, number].item() == expected


def monitor_of(minibatches: int = 1) -> NonfiniteMonitor:
    return NonfiniteMonitor(("left", "right"), minibatches=minibatches)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flag_says_head_quantity_kind_and_when(kind: str) -> None:
    monitor = monitor_of(minibatches=6)
    bad = torch.tensor([[0.0, float(kind)]])
    monitor.see_heads(3, "ratio", bad)
    monitor.see_heads(5, "ratio", bad)
    (seen,) = monitor.sightings(monitor.flags, minibatches_per_epoch=2)
    assert (seen.head, seen.quantity, seen.kind) == ("right", "ratio", kind)
    assert (seen.epoch, seen.minibatch, seen.count) == (2, 2, 2)
    assert (seen.last_epoch, seen.last_minibatch) == (3, 2)
    assert [bool(monitor.bad(index)) for index in range(6)] == [
        False, False, False, True, False, True,
    ]  # fmt: skip


def see(monitor: NonfiniteMonitor, head: str, quantity: str) -> None:
    if head == SHARED:
        monitor.see_shared(0, quantity, torch.tensor(torch.nan))
    else:
        values = torch.tensor([[torch.nan if name == head else 0.0 for name in monitor.heads]])
        monitor.see_heads(0, quantity, values)


def causes(*seen: tuple[str, str]) -> set[tuple[str, str]]:
    monitor = monitor_of()
    for head, quantity in seen:
        see(monitor, head, quantity)
    return {(s.head, s.quantity) for s in monitor.sightings(monitor.flags, 1)}


def test_what_an_earlier_failure_explains_is_left_out() -> None:
    trunk = (SHARED, "trunk")
    both = [("left", "logits"), ("right", "logits")]
    assert causes(trunk, *both, (SHARED, "policy_loss")) == {trunk}
    assert causes((SHARED, "observations"), trunk) == {(SHARED, "observations")}
    own = ("left", "log_prob")
    everything = [(SHARED, "joint_ratio"), (SHARED, "policy_loss"), (SHARED, "gradient")]
    assert causes(own, *everything, ("right", "gradient")) == {own}
    assert causes((SHARED, "value"), (SHARED, "value_loss")) == {(SHARED, "value")}


def test_a_gradient_that_broke_in_all_heads_broke_in_the_loss() -> None:
    left, right = ("left", "gradient"), ("right", "gradient")
    shared = (SHARED, "gradient")
    assert causes(left, right, shared) == {shared}
    assert causes(left, shared) == {left}
    assert causes(shared) == {shared}


def test_an_independent_failure_is_kept_next_to_another() -> None:
    pair = {("left", "logits"), (SHARED, "advantages")}
    assert causes(*pair) == pair


def test_excused_minibatches_say_nothing() -> None:
    monitor = monitor_of(minibatches=2)
    for index in range(2):
        monitor.see_shared(index, "gradient", torch.tensor([torch.inf]))
    (seen,) = monitor.sightings(monitor.flags, 2, excused=[0])
    assert (seen.minibatch, seen.count) == (2, 1)


def test_only_the_gradient_of_an_excused_minibatch_says_nothing() -> None:
    monitor = monitor_of()
    see(monitor, SHARED, "gradient")
    see(monitor, "left", "parameters")
    (seen,) = monitor.sightings(monitor.flags, 1, excused=[0])
    assert (seen.head, seen.quantity) == ("left", "parameters")


def test_a_head_is_explained_by_itself_and_by_what_is_shared_only() -> None:
    monitor = NonfiniteMonitor(("left", "right"), explained_by={"log_prob": ("logits",)})
    for head, quantity in (("left", "logits"), ("left", "log_prob"), ("right", "log_prob")):
        see(monitor, head, quantity)
    found = {(s.head, s.quantity) for s in monitor.sightings(monitor.flags, 1)}
    assert found == {("left", "logits"), ("right", "log_prob")}


def test_broken_parameters_explain_what_comes_after_them() -> None:
    monitor = monitor_of(minibatches=3)
    nan = torch.tensor([[torch.nan, 0.0]])
    monitor.see_heads(0, "parameters", nan)
    monitor.see_shared(1, "advantages", nan)
    for later in (1, 2):
        monitor.see_heads(later, "logits", nan)
        monitor.see_shared(later, "policy_loss", nan)
    monitor.see_heads(2, "logits", nan.flip(1))
    found = [(s.head, s.quantity, s.minibatch) for s in monitor.sightings(monitor.flags, 3)]
    assert found == [("left", "parameters", 1), (SHARED, "advantages", 2), ("right", "logits", 3)]


def test_the_page_lists_every_watched_quantity() -> None:
    page = (Path(__file__).parents[3] / "docs" / "nonfinite.md").read_text()
    for group, quantities in (
        ("each head", HEAD_QUANTITIES),
        ("`shared`", SHARED_QUANTITIES),
    ):
        (row,) = re.findall(rf"^\| {group} \| (.*) \|$", page, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", row)) == set(quantities), "docs/nonfinite.md"


def test_the_example_outside_esper_runs_and_says_what_it_should(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "nonfinite.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(example, "docs/nonfinite.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1
    assert printed[0].startswith("throttle logits ")
    assert printed[0].endswith("in minibatch 2")


def test_the_order_is_causal() -> None:
    monitor = monitor_of()
    for quantity in ("entropy", "log_prob", "logits"):
        see(monitor, "left", quantity)
    assert [s.quantity for s in monitor.sightings(monitor.flags, 1)] == [
        "logits", "log_prob", "entropy",
    ]  # fmt: skip


def test_detected_names_every_head() -> None:
    monitor = monitor_of()
    monitor.see_heads(0, "logits", torch.tensor([[torch.inf, 0.0], [-torch.inf, torch.nan]]))
    monitor.see_shared(0, "observations", torch.zeros(3))
    inf, nan = detected(monitor.heads, monitor.sightings(monitor.flags, 1))
    assert inf == {"left": True, "right": False}
    assert nan == {"left": False, "right": True}


def test_names_are_the_callers() -> None:
    monitor = NonfiniteMonitor(("a", "b", "c"), ("scores",), ("embedding",), 2)
    assert len(monitor.rows()) == 4
    for head, quantity in itertools.product("abc", ("scores",)):
        assert (head, quantity) in monitor.rows()
    with pytest.raises(ValueError, match="'logits' is not among the watched quantities: scores"):
        monitor.see_heads(0, "logits", torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"must have the shape \[3, 3\], not \[3\]"):
        monitor.set_heads(0, "scores", torch.ones(3, dtype=torch.bool))


@pytest.mark.parametrize("heads", [("left", "left"), ("left", SHARED)])
def test_heads_need_different_names(heads: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="is given twice"):
        NonfiniteMonitor(heads, ("scores",), ("embedding",), 1)
