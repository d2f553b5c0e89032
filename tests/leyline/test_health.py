"""Verdicts: a lit light is critical for good, a figure beyond its bounds is worth a warning."""

import math

import pytest

from esper.leyline.heads import HEAD_NAMES
from esper.leyline.health import (
    HEALTHY,
    Level,
    Verdict,
    combine,
    judge_figure,
    judge_heads,
    judge_latches,
)
from esper.leyline.records import RECORDS, record_of

DARK = dict.fromkeys(HEAD_NAMES, False)
KL = record_of("training.approximate_kl")
EXPLAINED_VARIANCE = record_of("training.explained_variance")


def test_dark_lights_are_healthy():
    assert judge_latches(DARK, DARK) == HEALTHY


@pytest.mark.parametrize("head", HEAD_NAMES)
def test_any_lit_head_is_critical_and_named(head):
    assert judge_latches(DARK | {head: True}, DARK) == Verdict(
        Level.CRITICAL, (f"Inf seen in {head}",)
    )
    assert judge_latches(DARK, DARK | {head: True}) == Verdict(
        Level.CRITICAL, (f"NaN seen in {head}",)
    )


def test_a_group_is_as_critical_as_a_head():
    verdict = judge_latches(DARK | {"op": True, "shared": True}, DARK | {"hosts": True})

    assert verdict.level is Level.CRITICAL
    assert verdict.reasons == ("Inf seen in op, the shared part", "NaN seen in the hosts")


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.id)
def test_a_figure_is_judged_at_just_the_bounds_of_its_record(record):
    bounds = record.thresholds
    for bound, beyond in (
        (bounds.warn_above, lambda value: math.nextafter(value, math.inf)),
        (bounds.warn_below, lambda value: math.nextafter(value, -math.inf)),
    ):
        if bound is not None:
            assert judge_figure(record, bound, update=1_000) == HEALTHY
            verdict = judge_figure(record, beyond(bound), update=1_000)
            assert verdict.level is Level.WARNING
            problem = bounds.problem_of_many.removeprefix("{}")
            assert (problem or record.name) in verdict.reasons[0]


def test_what_was_not_measured_yet_is_healthy():
    assert judge_figure(KL, None) == HEALTHY


@pytest.mark.parametrize(
    ("value", "written"), [(math.nan, "NaN"), (math.inf, "Inf"), (-math.inf, "-Inf")]
)
def test_a_judged_figure_that_is_not_finite_is_a_warning(value, written):
    assert judge_figure(KL, value) == Verdict(Level.WARNING, (f"Approximate KL is {written}",))


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (
            "training.minibatches_skipped",
            1,
            "1 minibatch of the last update was skipped because of NaN or Inf",
        ),
        ("run.events_lost", 1, "1 event was lost: it could not be stored"),
        ("run.events_lost", 1_200_000, "1200000 events were lost: they could not be stored"),
        ("run.damaged_events", 2, "2 stored events are damaged or missing"),
        (
            "run.unknown_events",
            3,
            "3 stored events are of kinds that this version of Esper does not know",
        ),
    ],
)
def test_a_count_that_should_be_zero_is_a_sentence(path, value, sentence):
    assert judge_figure(record_of(path), value) == Verdict(Level.WARNING, (sentence,))
    assert judge_figure(record_of(path), 0) == HEALTHY


def test_what_may_be_nonfinite_is_not_flagged():
    # With equal returns the variance in the denominator is 0.
    assert judge_figure(EXPLAINED_VARIANCE, -math.inf, update=50) == HEALTHY
    assert judge_figure(EXPLAINED_VARIANCE, math.nan, update=50) == HEALTHY
    assert judge_figure(record_of("training.policy_loss"), math.nan) == HEALTHY


def test_a_fresh_critic_is_not_judged():
    assert judge_figure(EXPLAINED_VARIANCE, -3.0, update=9) == HEALTHY
    assert judge_figure(EXPLAINED_VARIANCE, -3.0, update=10).level is Level.WARNING


def test_heads_that_share_a_complaint_share_its_sentence():
    verdict = judge_heads(
        record_of("tamiyo.figures.head_kl"),
        {"op": 0.5, "slot": 0.01, "tempo": 0.25, "style": math.nan},
    )

    assert verdict == Verdict(
        Level.WARNING,
        ("Head KL is above 0.1 in op (0.5), tempo (0.25)", "Head KL is NaN in style"),
    )


def test_the_worst_comes_first():
    combined = combine(
        [
            Verdict(Level.WARNING, ("warm",)),
            HEALTHY,
            Verdict(Level.CRITICAL, ("on fire",)),
            Verdict(Level.NOTICE, ("odd",)),
        ]
    )

    assert combined == Verdict(Level.CRITICAL, ("on fire", "warm", "odd"))
    assert combine([]) == HEALTHY
