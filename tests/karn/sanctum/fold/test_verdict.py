"""The master status: lights first, then the process, then the figures."""

import math

import pytest

from esper.karn.sanctum.aggregator import SanctumAggregator
from esper.karn.sanctum.fold.verdict import master_verdict
from esper.karn.store.liveness import RunStatus, StatusKind
from esper.leyline.health import HEALTHY, Level, Verdict

LIVE = RunStatus(StatusKind.LIVE, 1.0, "process 1 is training")


@pytest.fixture
def judge(payloads):
    """A function that folds payloads and returns the verdict on them."""

    def judged(*these, status=LIVE, acknowledged=()):
        aggregator = SanctumAggregator()
        for event in payloads.events(*these):
            aggregator.apply(event)
        return master_verdict(aggregator.snapshot(), status, acknowledged)

    return judged


def test_a_run_without_anything_is_healthy(judge):
    assert judge() == HEALTHY


def test_an_ordinary_run_is_healthy(judge, payloads):
    assert judge(payloads.start(), payloads.step(), payloads.update()) == HEALTHY


def test_a_light_is_critical_for_the_rest_of_the_run_and_the_first_out_is_the_reason(
    judge, payloads
):
    verdict = judge(
        payloads.start(),
        payloads.broken_update(1, "slot", "nan", "log_prob"),
        payloads.broken_update(2, "op", "+inf"),
        *(payloads.update(update) for update in range(3, 9)),
        payloads.finish(),
        status=RunStatus(StatusKind.FINISHED, None, "finished"),
    )

    assert verdict == Verdict(
        Level.CRITICAL,
        ("slot went NaN in log_prob, update 1", "Inf seen in op"),
    )


def test_every_lit_head_is_named_exactly_once(judge, payloads):
    verdict = judge(
        payloads.broken_update(1, "slot", "nan", "log_prob"),
        payloads.broken_update(2, "op", "nan", "log_prob"),
        payloads.broken_update(3, "op", "+inf"),
        payloads.update(4),
    )

    assert verdict.reasons == (
        "slot went NaN in log_prob, update 1",
        "Inf seen in op",
        "NaN seen in slot, op",
    )


_LIT = ("op went Inf in logits, update 1",)


@pytest.mark.parametrize(
    ("kind", "reasons"),
    [
        ("LIVE", _LIT),
        ("FINISHED", _LIT),
        ("STOPPED", (*_LIT, "what is known")),
        ("STALE", (*_LIT, "what is known")),
        ("DEAD", (*_LIT, "what is known")),
        ("HALTED", (*_LIT, "what is known")),
        ("FAILED", (*_LIT, "what is known")),
    ],
)
def test_the_acknowledged_first_out_stays_first_for_every_status_of_the_process(
    judge, payloads, kind, reasons
):
    verdict = judge(
        payloads.broken_update(1, "op", "+inf"),
        payloads.update(2),
        status=RunStatus(StatusKind(kind), 1.0, "what is known"),
        acknowledged=[("op", "inf")],
    )

    assert verdict == Verdict(Level.CRITICAL, reasons)


def test_a_light_of_the_hosts_is_acknowledged_like_any_other(judge, payloads):
    broken = {"phase": "hosts", "host": 1, "step": 3, "epoch": 0, "minibatch": 0}
    seen = payloads.sighting(head="hosts", quantity="loss", kind="nan", **broken)
    update = payloads.update(1, head_nonfinite=[seen])
    later = payloads.broken_update(2, "op", "nan")

    host = "the hosts went NaN in loss, while training host 2, step 3, update 1"
    assert judge(update) == Verdict(Level.CRITICAL, (host,))
    assert judge(update, later).reasons[:2] == (host, "NaN seen in op, the hosts")
    reasons = judge(update, later, acknowledged={("hosts", "nan")}).reasons
    first = "first of the run: hosts NaN, update 1"
    assert reasons[:2] == (f"op went NaN in logits, update 2; {first}", host)


def test_a_broken_host_does_not_excuse_the_figures_of_the_heads(judge, payloads):
    seen = payloads.sighting(head="hosts", quantity="loss", kind="nan")
    update = payloads.update(1, head_nonfinite=[seen], head_ratio_max={"op": math.nan, "slot": 1.0})

    assert "Head Ratio Max is NaN in op" in judge(update).reasons


def test_a_new_light_comes_before_everything_else(judge, payloads):
    verdict = judge(
        payloads.broken_update(1, "op", "+inf"),
        payloads.broken_update(2, "slot", "nan", "log_prob"),
        payloads.update(3),
        status=RunStatus(StatusKind.DEAD, 1.0, "process 1 is gone"),
        acknowledged=[("op", "inf")],
    )

    assert verdict.reasons == (
        "slot went NaN in log_prob, update 2; first of the run: op Inf, update 1",
        "process 1 is gone",
        *_LIT,
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"approximate_kl": 0.5}, "Approximate KL is 0.5, above 0.1"),
        ({"clip_fraction": 0.9}, "Clip Fraction is 0.9, above 0.5"),
        ({"gradient_norm": math.inf}, "Gradient Norm is Inf"),
        ({"loss_scale": 0.5}, "Loss Scale is 0.5, below 1"),
        (
            {"minibatches_skipped": 2},
            "2 minibatches of the last update were skipped because of NaN or Inf",
        ),
        ({"head_ratio_max": {"op": 20.0}}, "Head Ratio Max is above 10 in op (20)"),
        ({"head_entropy": {"tempo": 0.0}}, "Head Entropy is below 0.02 in tempo (0)"),
        ({"head_gradient_norm": {"op": math.nan}}, "Head Gradient Norm is NaN in op"),
        ({"head_log_prob_min": {"op": -50.0}}, "Head Log-Prob Min is below -20 in op (-50)"),
    ],
)
def test_a_figure_beyond_its_bounds_is_a_warning(judge, payloads, change, reason):
    assert judge(payloads.update(1, **change)) == Verdict(Level.WARNING, (reason,))


def test_minibatches_skipped_to_find_the_loss_scale_raise_no_alarm(judge, payloads):
    update = payloads.update(1, loss_scale=32_768.0, minibatches_rescaled=1)

    assert judge(update) == HEALTHY


def test_the_entropy_of_a_head_that_hardly_counted_is_not_judged(judge, payloads):
    update = payloads.update(1, head_entropy={"tempo": 0.0}, head_active_fraction={"tempo": 0.01})

    assert judge(update) == HEALTHY


def test_a_warning_passes_with_its_cause(judge, payloads):
    assert judge(payloads.update(1, approximate_kl=9.0), payloads.update(2)) == HEALTHY


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("WAITING", Level.OK),
        ("LIVE", Level.OK),
        ("FINISHED", Level.OK),
        ("STOPPED", Level.NOTICE),
        ("STALE", Level.WARNING),
        ("DEAD", Level.CRITICAL),
        ("FAILED", Level.CRITICAL),
        ("HALTED", Level.CRITICAL),
    ],
)
def test_how_a_run_ended_counts(judge, kind, level):
    verdict = judge(status=RunStatus(StatusKind(kind), 1.0, "what is known"))

    assert verdict.level is level
    assert verdict.reasons == (("what is known",) if level else ())
