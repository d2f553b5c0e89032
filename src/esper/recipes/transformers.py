"""transformers: a model, or the Trainer that a callback found, including those of TRL."""

import re
from typing import Any, Final

import torch
from torch import nn

from esper.recipes.recipe import Recipe, RecipeError, Subject
from esper.watching.finding.repeating.repeater import Repeater
from esper.watching.hooking.hooks import unwrapped
from esper.watching.model.heads import Head

#: Where models keep the layer that computes the logits of classes or tokens.
_OUTPUT_LAYERS: Final = ("score", "classifier", "qa_outputs", "lm_head")
_SETTINGS: Final = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs"),
    *("max_steps", "optim", "bf16", "fp16", "logging_nan_inf_filter", "gradient_checkpointing"),
    *("beta", "num_generations", "max_completion_length", "temperature", "loss_type"),
    *("scale_rewards", "max_length"),
)


def subject_of(thing: Any) -> Subject | None:
    """Return the watched parts of a model; None for another object of the library.

    Raises:
        RecipeError: the object is a Trainer; a callback must watch it.
    """
    if isinstance(thing, nn.Module):
        return _of_model(thing)
    if hasattr(thing, "callback_handler"):
        raise RecipeError(
            "to watch a Trainer, give it a callback: callbacks=[EsperCallback()] from "
            "esper.integrations.transformers"
        )
    return None


RECIPE: Final = Recipe("transformers", subject_of)


def of_trainer(trainer: Any, repeater: Repeater) -> Subject:
    """Return the watched parts of a Trainer whose training has begun, so it has an optimizer."""
    model = _of_model(trainer.model)
    optimizer = trainer.optimizer
    rewards = [Head(name, "reward") for name in reward_names(trainer)]
    return Subject(
        models=model.models,
        optimizers=[unwrapped(optimizer)] if isinstance(optimizer, torch.optim.Optimizer) else (),
        heads=[*(model.heads or ()), *rewards],
        output_layer=model.output_layer,
        library="trl" if type(trainer).__module__.startswith("trl.") else "transformers",
        task=model.task,
        seed=trainer.args.seed,
        config={"trainer": type(trainer).__name__} | _settings(trainer.args),
        groups=model.groups,
        runs_again=False,
        repeater=repeater,
        reports_steps=True,
    )


def reward_names(trainer: Any) -> list[str]:
    """Return a distinct name for each reward function of a TRL trainer, in order."""
    names: list[str] = []
    for given in getattr(trainer, "reward_func_names", ()):
        name = given or "reward"
        same = sum(each.partition("[")[0] == name for each in names)
        names.append(f"{name}[{same}]" if same else name)
    return names


def _of_model(model: nn.Module) -> Subject:
    base: Any = model
    if hasattr(base, "get_base_model"):  # with adapters of PEFT
        base = base.get_base_model()
    name, layer = _output_layer(base)
    width = getattr(layer, "out_features", None)
    heads = []
    if isinstance(width, int):
        kind: Any = "module" if name != "lm_head" and _is_regression(base) else "categorical"
        heads = [Head(name, kind, range(width))]
    config = getattr(base, "config", None)
    return Subject(
        models=[model],
        heads=heads,
        output_layer=layer if heads else None,
        library="transformers",
        task=getattr(config, "_name_or_path", "") or type(base).__name__,
        groups=_adapters(model),
    )


def _output_layer(model: Any) -> tuple[str, nn.Module | None]:
    """Return name and layer: the last linear layer of a classifier, or the output embeddings."""
    for name in _OUTPUT_LAYERS:
        part = getattr(model, name, None)
        named = part.named_modules() if isinstance(part, nn.Module) else ()
        layers = [m for path, m in named if isinstance(m, nn.Linear) and "lora_" not in path]
        if layers:
            return name, layers[-1]
    layer = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return "lm_head", layer if isinstance(layer, nn.Module) else None


def _is_regression(model: Any) -> bool:
    config = getattr(model, "config", None)
    is_one_number = getattr(config, "num_labels", 2) == 1
    return is_one_number or getattr(config, "problem_type", None) == "regression"


def _adapters(model: Any) -> dict[str, str]:
    """Return a group for each adapter of PEFT, by type and name."""
    return {
        f"{getattr(config.peft_type, 'value', config.peft_type).lower()}.{name}": (
            rf".*\.{re.escape(name)}(\.|$)"
        )
        for name, config in getattr(model, "peft_config", {}).items()
    }


def _settings(arguments: Any) -> dict[str, Any]:
    values = {name: getattr(arguments, name, None) for name in _SETTINGS}
    values = {name: getattr(value, "value", value) for name, value in values.items()}
    return {name: value for name, value in values.items() if isinstance(value, (int, float, str))}
