"""The Trainer that a callback found, including those of TRL."""

from typing import Any, Final

import torch

from esper.recipes.recipe import Subject
from esper.recipes.transformers.recipe import of_model
from esper.watching.finding.repeating.repeater import Repeater
from esper.watching.hooking.hooks import unwrapped
from esper.watching.model.heads import Head

_SETTINGS: Final = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs"),
    *("max_steps", "optim", "bf16", "fp16", "logging_nan_inf_filter", "gradient_checkpointing"),
    *("beta", "num_generations", "max_completion_length", "temperature", "loss_type"),
    *("scale_rewards", "max_length"),
)


def of_trainer(trainer: Any, repeater: Repeater) -> Subject:
    """Return the watched parts of a Trainer whose training has begun, so it has an optimizer."""
    model = of_model(trainer.model)
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


def _settings(arguments: Any) -> dict[str, Any]:
    values = {name: getattr(arguments, name, None) for name in _SETTINGS}
    values = {name: getattr(value, "value", value) for name, value in values.items()}
    return {name: value for name, value in values.items() if isinstance(value, (int, float, str))}
