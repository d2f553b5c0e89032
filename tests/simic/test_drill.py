"""Drills: what can be asked for, and what is refused in one sentence."""

import pytest
import torch

from esper.leyline.heads import HEAD_NAMES
from esper.simic.agent.drill_hook import plant_in_log_probs, plant_in_logits
from esper.simic.config import ConfigError, TrainingConfig
from esper.simic.drill import DRILL_QUANTITIES, DRILL_VALUES, Injection, parse_injection, scheduled


@pytest.mark.parametrize("head", HEAD_NAMES)
@pytest.mark.parametrize("quantity", DRILL_QUANTITIES)
@pytest.mark.parametrize("kind", DRILL_VALUES)
def test_what_is_written_out_reads_back(head: str, quantity: str, kind: str) -> None:
    injection = Injection(head, quantity, kind, 12)
    assert parse_injection(str(injection)) == injection


def test_logits_are_the_default() -> None:
    assert parse_injection("op:-inf@3") == Injection("op", "logits", "-inf", 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("op", "takes HEAD"),
        ("op:inf", "takes HEAD"),
        ("opp:inf@2", "'opp' is not a head; it must be one of slot, blueprint"),
        ("op.weights:inf@2", "'weights' is not a quantity; it must be one of logits, log_prob"),
        ("op:infinity@2", "'infinity' is not a kind; it must be one of inf, -inf, nan"),
        ("op:inf@0", "whole number from 1"),
        ("op:inf@two", "whole number from 1"),
        ("op:inf@²", "whole number from 1"),
        ("op:inf@-1", "whole number from 1"),
    ],
)
def test_what_names_nothing_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match="inject") as error:
        parse_injection(text)
    assert words in str(error.value)


def test_a_drill_after_the_last_update_is_refused() -> None:
    scheduled(TrainingConfig(episodes=10, envs=4, inject=("op:inf@3",)))
    with pytest.raises(ConfigError, match="this run ends with update 3"):
        scheduled(TrainingConfig(episodes=10, envs=4, inject=("op:inf@4",)))


def test_planting_changes_one_value_and_not_the_original() -> None:
    logits = torch.zeros(3, 2, 36)
    planted = plant_in_logits(logits, parse_injection("op:nan@1"), torch.tensor(33))
    assert planted.isnan().nonzero().tolist() == [[0, 0, 33]]
    assert not logits.isnan().any()

    log_probs, active = torch.zeros(3, 2, 8), torch.zeros(3, 2, 8, dtype=torch.bool)
    active[1:, 1, 4] = True
    injection = parse_injection("alpha_target.log_prob:inf@1")
    changed = plant_in_log_probs(log_probs, active, injection, head=4)
    assert changed is not None
    assert changed.isinf().nonzero().tolist() == [[1, 1, 4]]
    assert plant_in_log_probs(log_probs, active, injection, head=5) is None
