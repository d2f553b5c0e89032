"""What the callback finds in TRL's trainers: each reward function has its own lights."""

import asyncio

import pytest
import torch
from tiny_language_models import breakable_gpt2, overflow, poison, tiny_gpt2, tiny_tokenizer

pytest.importorskip("trl")
from datasets import Dataset
from transformers import GPT2ForSequenceClassification, TrainerCallback
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)

from esper.integrations.transformers import EsperCallback

# TRL itself still passes these names to transformers, which has renamed them.
pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing` is deprecated")

PROMPTS = {"prompt": ["w2 w3 w4", "w5 w6"] * 4}
SETTINGS = {
    "per_device_train_batch_size": 4, "logging_steps": 1, "report_to": [], "save_strategy": "no",
    "use_cpu": True, "disable_tqdm": True, "learning_rate": 1e-3, "bf16": False,
    "gradient_checkpointing": False,
}  # fmt: skip


class Fault(TrainerCallback):
    """Breaks a layer in step 2."""

    def __init__(self, layer, fault):
        self.layer, self.fault = layer, fault

    def on_step_begin(self, args, state, control, **kwargs):
        self.layer.fault = self.fault if state.global_step == 1 else None


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("ESPER_RUN_DIR", str(tmp_path / "runs"))


def short(completions, **_):
    return [float(-len(completion.split())) for completion in completions]


def grpo(
    tmp_path, model, rewards, *callbacks, steps=3, trainer=GRPOTrainer, config=GRPOConfig,
    reward_processing_classes=None, **settings,
):  # fmt: skip
    arguments = config(
        str(tmp_path / "grpo"), max_steps=steps, num_generations=4, max_completion_length=4,
        **SETTINGS, **settings,
    )  # fmt: skip
    trained = trainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(PROMPTS), reward_funcs=rewards,
        processing_class=tiny_tokenizer(), callbacks=list(callbacks),
        reward_processing_classes=reward_processing_classes,
    )  # fmt: skip
    trained.train()
    return trained


def found(watch):
    return [
        (one.owner, one.quantity, one.kind)
        for trouble in watch.troubles
        for one in trouble.explanation.found
    ]


@pytest.mark.parametrize(
    ("value", "kind"), [(float("inf"), "+inf"), (float("nan"), "nan"), (None, None)]
)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_reward_function_lights_by_name(tmp_path, value, kind, is_async):
    calls = []

    def ratio(completions, **_):
        calls.append(len(completions))
        rewards = [1.0] * len(completions)
        if len(calls) == 2:
            rewards[1] = value
        return rewards

    async def later_ratio(completions, **kwargs):
        await asyncio.sleep(0)
        return ratio(completions, **kwargs)

    callback = EsperCallback()
    function = later_ratio if is_async else ratio
    model, _ = breakable_gpt2(dropout=0.0)
    trainer = grpo(tmp_path, model, [short, function], callback, steps=2)

    watch = callback.watch
    assert (watch.failures, watch.last_failure) == (0, "")
    name = "later_ratio" if is_async else "ratio"
    assert found(watch) == ([(name, "reward", kind)] if kind else [])
    assert [(head.name, head.kind) for head in watch.heads] == [
        ("lm_head", "categorical"), ("short", "reward"), (name, "reward"),
    ]  # fmt: skip
    assert trainer.reward_funcs == [short, function]
    if kind:
        assert watch.troubles[0].update == 2
        assert "test_trl.py" in watch.troubles[0].explanation.why_no_origin


def test_a_reward_model_has_a_light_and_names_are_unique(tmp_path):
    model, _ = breakable_gpt2(dropout=0.0)
    judges = []
    for value in (1.0, torch.nan):
        judge = GPT2ForSequenceClassification(tiny_gpt2().config.__class__(
            **{**tiny_gpt2().config.to_dict(), "num_labels": 1}
        ))  # fmt: skip
        judge.score.weight.data.fill_(value)
        judges.append(judge)
    callback = EsperCallback()
    trainer = grpo(
        tmp_path, model, judges, callback, steps=1, trainer=RLOOTrainer, config=RLOOConfig,
        reward_processing_classes=[tiny_tokenizer(), tiny_tokenizer()], beta=0.0,
    )  # fmt: skip

    names = [head.name for head in callback.watch.heads[1:]]
    assert len(set(names)) == 2
    assert found(callback.watch) == [(names[1], "reward", "nan")]
    assert not any(judge._forward_hooks for judge in trainer.reward_funcs)


def test_rewards_that_are_always_infinite_stand_still(tmp_path):
    def infinite(completions, **_):
        return [float("inf")] + [0.0] * (len(completions) - 1)

    callback = EsperCallback()
    model, _ = breakable_gpt2(dropout=0.0)
    grpo(tmp_path, model, [infinite], callback, steps=5)

    watch = callback.watch
    assert set(found(watch)) == {("infinite", "reward", "+inf")}
    assert [trouble.update for trouble in watch.troubles] == [1, 2, 3, 4, 5]
    assert watch.is_stalled


@pytest.mark.parametrize("fault", [None, overflow, poison])
def test_a_watched_grpo_training_equals_an_unwatched_one(tmp_path, fault):
    results = []
    for callback in (None, EsperCallback()):
        calls = []

        def counted(completions, calls=calls, **_):
            calls.append(completions)
            return short(completions)

        model, layer = breakable_gpt2(dropout=0.0)
        callbacks = [Fault(layer, None if fault is None else when_training(fault))]
        callbacks += [callback] if callback else []
        trainer = grpo(tmp_path, model, [counted], *callbacks, steps=2)
        log = [
            {name: value for name, value in one.items() if "time" not in name}
            for one in trainer.state.log_history[:-1]
        ]
        results.append((model.state_dict(), torch.get_rng_state(), layer.calls, log, len(calls)))

    assert (callback.watch.failures, callback.watch.last_failure) == (0, "")
    if fault is not None:
        (trouble,) = callback.watch.troubles
        assert trouble.update == 2
        origin = trouble.explanation.origin
        assert origin.operation.place.file.endswith("tiny_language_models.py")
    plain, watched = results
    for mine, other in zip(plain, watched, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)


def when_training(fault):
    """Return a fault that leaves generation alone."""
    return lambda values: fault(values) if torch.is_grad_enabled() else values


@pytest.mark.parametrize("trainer", ["sft", "dpo"])
def test_other_trainers_are_watched(tmp_path, trainer):
    model, layer = breakable_gpt2(dropout=0.0)
    callback = EsperCallback()
    callbacks = [callback, Fault(layer, overflow)]
    common = {"max_steps": 3, **SETTINGS, "max_length": 16}
    if trainer == "sft":
        data = Dataset.from_dict({"text": ["w2 w3 w4 w5", "w6 w7 w8"] * 4})
        trained = SFTTrainer(
            model, args=SFTConfig(str(tmp_path), **common), train_dataset=data,
            processing_class=tiny_tokenizer(), callbacks=callbacks,
        )  # fmt: skip
    else:
        data = Dataset.from_dict(
            {"prompt": ["w2 w3"] * 8, "chosen": [" w4 w5"] * 8, "rejected": [" w6 w7"] * 8}
        )
        trained = DPOTrainer(
            model, ref_model=tiny_gpt2(), args=DPOConfig(str(tmp_path), **common),
            train_dataset=data,
            processing_class=tiny_tokenizer(), callbacks=callbacks,
        )  # fmt: skip
    trained.train()

    (trouble,) = callback.watch.troubles
    assert (callback.watch.failures, callback.watch.last_failure) == (0, "")
    assert trouble.update == 2
    assert trouble.explanation.origin.operation.place.function == "overflow"
