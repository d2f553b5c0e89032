"""What the callback finds in transformers' Trainer, and that the Trainer does not notice it."""

import math

import pytest
import torch
from tiny_language_models import (
    VOCABULARY,
    breakable_gpt2,
    overflow,
    poison,
    tiny_gpt2,
    token_rows,
)

import esper
from esper.karn.store.run_store import RunReader

pytest.importorskip("transformers")
from transformers import Trainer, TrainerCallback, TrainingArguments

from esper.integrations.transformers import EsperCallback
from esper.leyline.errors import EsperError


class At(TrainerCallback):
    """Calls a function at the beginning of one step, and another one at its end."""

    def __init__(self, step, begin, end=lambda: None):
        self.step, self.begin, self.end = step, begin, end

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            self.begin()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.end()


class InfiniteLoss(Trainer):
    """Its loss is infinite in step 3."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self.state.global_step == 2:
            loss = loss - torch.log(loss * 0)
        return (loss, outputs) if return_outputs else loss


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("ESPER_RUN_DIR", str(tmp_path / "runs"))
    return tmp_path / "runs"


def train(model, tmp_path, *callbacks, trainer=Trainer, data=None, steps=4, **settings):
    settings = {"logging_steps": 1, "gradient_accumulation_steps": 2} | settings
    arguments = TrainingArguments(
        str(tmp_path / "gpt"), max_steps=steps, per_device_train_batch_size=2, report_to=[],
        save_strategy="no", use_cpu=True, disable_tqdm=True, learning_rate=1e-3, **settings,
    )  # fmt: skip
    trained = trainer(
        model, arguments, train_dataset=data or token_rows(), callbacks=list(callbacks)
    )
    trained.train()
    return trained


def planted(fault, layer):
    return At(3, lambda: setattr(layer, "fault", fault), lambda: setattr(layer, "fault", None))


def found(watch):
    return [
        (one.owner, one.quantity, one.kind)
        for trouble in watch.troubles
        for one in trouble.explanation.found
    ]


def recorded(directory):
    return [stored.payload for stored in RunReader(directory).read(0, 1000)]


def only(watch):
    (trouble,) = watch.troubles
    assert (watch.failures, watch.last_failure) == (0, "")
    return trouble


def test_a_clean_training_is_clean_and_recorded(tmp_path, runs):
    callback = EsperCallback()
    train(tiny_gpt2(), tmp_path, callback)

    watch = callback.watch
    assert (watch.troubles, watch.failures, watch.last_failure) == ([], 0, "")
    (directory,) = runs.iterdir()
    assert "GPT2LMHeadModel-gpt" in directory.name
    events = recorded(directory)
    started, updates = events[0], [one for one in events if hasattr(one, "still_updates")]
    assert list(started.heads) == ["lm_head"]
    assert started.library.startswith("transformers ")
    assert started.task == "GPT2LMHeadModel"
    assert started.seed == 42
    assert started.config["gradient_accumulation_steps"] == 2
    assert [one.update for one in updates] == [1, 2, 3, 4]
    assert [one.logged["global_step"] for one in updates] == [1, 2, 3, 4]
    assert all({"loss", "grad_norm", "learning_rate"} <= one.logged.keys() for one in updates)
    assert events[-1].status == "finished"


def test_a_nan_weight_is_named_with_its_first_use(tmp_path):
    model = tiny_gpt2()
    weight = model.transformer.h[1].mlp.c_fc.weight
    callback = EsperCallback()
    train(model, tmp_path, callback, At(3, lambda: weight.data[0, 0].fill_(torch.nan)))

    trouble = only(callback.watch)
    assert found(callback.watch) == [("shared", "parameters", "nan")]
    assert (trouble.update, trouble.phase) == (3, "update")
    origin = trouble.explanation.origin
    assert origin.operation.module.endswith("transformer.h.1.mlp.c_fc")
    assert "transformer.h.1.mlp.c_fc.weight" in origin.cause


def test_a_nan_in_an_untied_output_layer_lights_the_head(tmp_path):
    model = tiny_gpt2(tied=False)
    callback = EsperCallback()
    train(model, tmp_path, callback, At(3, lambda: model.lm_head.weight.data[5].fill_(torch.inf)))

    assert found(callback.watch) == [("lm_head", "parameters", "+inf")]


def test_an_input_is_named(tmp_path):
    generator = torch.Generator().manual_seed(0)
    data = [
        {"inputs_embeds": torch.randn(8, 16, generator=generator), "labels": row["labels"]}
        for row in token_rows()
    ]
    data[3]["inputs_embeds"][2, 5] = torch.nan
    callback = EsperCallback()
    train(tiny_gpt2(), tmp_path, callback, data=data)

    assert found(callback.watch) == [("shared", "inputs_embeds", "nan")]
    assert "variable inputs_embeds" in only(callback.watch).explanation.origin.cause


def test_an_overflow_in_a_layer_of_ones_own_is_named_by_line(tmp_path):
    model, layer = breakable_gpt2()
    callback = EsperCallback()
    train(model, tmp_path, callback, planted(overflow, layer))

    trouble = only(callback.watch)
    assert trouble.update == 3
    assert found(callback.watch)[0][:2] == ("shared", "features")
    operation = trouble.explanation.origin.operation
    assert (operation.name, operation.phase) == ("aten.exp.default", "forward")
    assert operation.place.file.endswith("tiny_language_models.py")
    assert operation.place.function == "overflow"
    assert "overflow in exp" in trouble.explanation.origin.cause


def test_what_is_infinite_only_in_the_backward_pass_is_named(tmp_path):
    model, layer = breakable_gpt2()
    callback = EsperCallback()
    train(model, tmp_path, callback, planted(poison, layer))

    operation = only(callback.watch).explanation.origin.operation
    assert found(callback.watch)[0][1] == "gradient"
    assert operation.phase == "backward"
    assert operation.place.file.endswith("tiny_language_models.py")
    assert operation.place.function == "backward"


@pytest.mark.parametrize("hides_it", [True, False])
def test_an_infinite_loss_lights_though_the_log_hides_it(tmp_path, hides_it):
    callback = EsperCallback()
    trainer = train(
        tiny_gpt2(), tmp_path, callback, trainer=InfiniteLoss, logging_nan_inf_filter=hides_it
    )

    trouble = only(callback.watch)
    assert ("shared", "loss", "+inf") in found(callback.watch)
    assert trouble.update == 3
    operation = trouble.explanation.origin.operation
    assert operation.place.file.endswith("test_transformers.py")
    assert operation.name == "aten.log.default"
    logged = [one["loss"] for one in trainer.state.log_history if "loss" in one]
    assert all(map(math.isfinite, logged)) == hides_it


@pytest.mark.parametrize(
    ("fault", "settings"),
    [
        (None, {}),
        (overflow, {"gradient_accumulation_steps": 1}),
        (poison, {}),
        (overflow, {"bf16": True}),
        (poison, {"max_grad_norm": 0.0, "activation_checkpointing": True}),
    ],
)
def test_a_watched_training_equals_an_unwatched_one(tmp_path, fault, settings):
    results = []
    for callback in (None, EsperCallback()):
        model, layer = breakable_gpt2()
        callbacks = [planted(fault, layer), *([callback] if callback else [])]
        trainer = train(model, tmp_path, *callbacks, **settings)
        if callback is not None:
            assert bool(callback.watch.troubles) == (fault is not None)
            assert (callback.watch.failures, callback.watch.last_failure) == (0, "")
            if fault is not None:
                assert only(callback.watch).explanation.origin is not None
        state = trainer.optimizer.state_dict()["state"]
        log = [dict(one) for one in trainer.state.log_history[:-1]]
        results.append((model.state_dict(), state, torch.get_rng_state(), layer.calls, log))

    plain, watched = results
    for mine, other in zip(plain, watched, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)


def test_flags_that_are_read_once_per_update_name_the_head(tmp_path):
    model, layer = breakable_gpt2()
    callback = EsperCallback(when="update")
    train(model, tmp_path, callback, planted(overflow, layer))

    assert found(callback.watch) == [("lm_head", "logits", "nan")]
    assert only(callback.watch).update == 3


def test_a_training_that_stands_still_is_told(tmp_path):
    callback = EsperCallback()
    train(tiny_gpt2(), tmp_path, callback, steps=6, max_grad_norm=1e-45, optim="sgd")

    assert callback.watch.troubles == []
    assert callback.watch.is_stalled


def test_a_backward_pass_that_steps_is_not_repeated(tmp_path):
    model, layer = breakable_gpt2()
    steps = []
    model.lm_head.weight.register_post_accumulate_grad_hook(steps.append)
    callback = EsperCallback()
    train(model, tmp_path, callback, planted(overflow, layer))

    assert "steps the optimizer itself" in only(callback.watch).explanation.why_no_origin
    assert found(callback.watch) == [("lm_head", "logits", "nan")]
    assert len(steps) == 8


def test_bf16_weights_are_watched(tmp_path):
    callback = EsperCallback()
    train(tiny_gpt2().to(torch.bfloat16), tmp_path, callback, steps=5)

    assert (callback.watch.troubles, callback.watch.last_failure) == ([], "")
    assert not callback.watch.is_stalled


def test_skip_leaves_a_bad_step_out(tmp_path):
    model, layer = breakable_gpt2()
    callback = EsperCallback(on_nonfinite="skip")
    train(model, tmp_path, callback, planted(overflow, layer))

    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    assert only(callback.watch).update == 3


def test_halt_ends_with_exit_code_3(tmp_path, runs):
    model, layer = breakable_gpt2()
    callback = EsperCallback(on_nonfinite="halt")
    with pytest.raises(SystemExit) as raised:
        train(model, tmp_path, callback, planted(overflow, layer))

    assert raised.value.code == 3
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    (directory,) = runs.iterdir()
    assert recorded(directory)[-1].status == "halted"


def test_an_exception_is_explained_and_the_trainer_is_as_before(tmp_path, runs):
    model = tiny_gpt2()

    def refuse(_module, _inputs, output):
        if not bool(output.isfinite().all()):
            raise ValueError("logits must be finite")

    callback = EsperCallback()
    weight = model.transformer.h[0].mlp.c_fc.weight
    breaks = At(2, lambda: weight.data.fill_(torch.nan))
    model.lm_head.register_forward_hook(refuse)
    with pytest.raises(ValueError, match="must be finite"):
        train(model, tmp_path, callback, breaks)

    assert found(callback.watch) == [("shared", "parameters", "nan")]
    (directory,) = runs.iterdir()
    assert recorded(directory)[-1].status == "failed"


def test_a_trainer_itself_is_refused_with_what_to_write(tmp_path):
    trainer = Trainer(tiny_gpt2(), TrainingArguments(str(tmp_path), use_cpu=True, report_to=[]))
    with pytest.raises(EsperError, match="EsperCallback"):
        esper.watch(trainer)


def test_nothing_stays_behind_on_the_trainer(tmp_path):
    trainer = train(tiny_gpt2(), tmp_path, EsperCallback())

    assert not {"compute_loss", "training_step", "_prepare_inputs"} & vars(trainer).keys()
    assert not trainer.model.lm_head._forward_hooks


# peft asks a model for an attribute that transformers renamed.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_adapters_are_groups(tmp_path):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        tiny_gpt2(), peft.LoraConfig(target_modules=["c_attn"], r=2, fan_in_fan_out=True)
    )
    adapter = dict(model.named_parameters())[
        "base_model.model.transformer.h.1.attn.c_attn.lora_A.default.weight"
    ]
    callback = EsperCallback()
    train(model, tmp_path, callback, At(3, lambda: adapter.data[0, 0].fill_(torch.nan)))

    assert found(callback.watch) == [("lora.default", "parameters", "nan")]


def test_the_head_of_a_classifier_is_found(tmp_path):
    from transformers import GPT2ForSequenceClassification

    model = GPT2ForSequenceClassification(tiny_gpt2().config)
    data = [{"input_ids": row["input_ids"], "labels": number % 2} for number, row in
            enumerate(token_rows())]  # fmt: skip
    callback = EsperCallback()
    breaks = At(2, lambda: model.score.weight.data.fill_(torch.nan))
    train(model, tmp_path, callback, breaks, data=data, steps=2)

    assert found(callback.watch) == [("score", "parameters", "nan")]
    assert [len(head.columns) for head in callback.watch.heads] == [2] != [VOCABULARY]
