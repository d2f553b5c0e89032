"""A callback for transformers' Trainer; it works with the trainers of TRL as well.

```python
Trainer(model, arguments, train_dataset=data, callbacks=[EsperCallback()]).train()
```
"""

import copy
import functools
import logging
import numbers
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from esper.integrations.replacing import replaced
from esper.integrations.trl_rewards import checked_rewards
from esper.recipes.transformers.trainer import of_trainer
from esper.services.watched_run import watch
from esper.watching.finding.repeating.cannot_run_again import CannotRunAgainError
from esper.watching.finding.repeating.repeater import RandomState
from esper.watching.hooking.hooks import unwrapped
from esper.watching.watch import Watch

_log = logging.getLogger("esper")


class EsperCallback(TrainerCallback):
    """Watches the training of a Trainer: `Trainer(…, callbacks=[EsperCallback()])`.

    An update is one step of the optimizer. Under DDP, the processes record one run; models that
    FSDP or DeepSpeed shards are not watched.

    Args:
        options: options of `esper.watch`, such as `name`, `run_dir`, `on_nonfinite` and `groups`.

    Attributes:
        watch: the watch; None before training.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._attached = ExitStack()
        self.watch: Watch | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start watching."""
        self._attached.close()
        self.watch = None
        trainer = _calling_trainer(self)
        if trainer is None:
            _log.warning("Esper watches nothing: no transformers Trainer called its callback")
            return
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            _log.warning("Esper does not watch models that FSDP or DeepSpeed shards")
            return
        minibatches = HeldMinibatches(trainer)
        subject = of_trainer(trainer, minibatches)
        name = f"{type(trainer.model).__name__}-{Path(args.output_dir).name}"
        options = {"name": name, "when": "step"} | self._options
        self.watch = watch(subject, finds_updates=False, **options)
        self._attached.enter_context(_followed(trainer, self.watch, minibatches))
        self._attached.enter_context(checked_rewards(trainer, self.watch))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the previous update; its figures were logged after its step."""
        if self.watch is not None and self.watch.has_stepped:
            self.watch.update()

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Check the gradients, the loss and the logits."""
        if self.watch is not None:
            is_scaled = getattr(optimizer, "scaler", None) is not None
            self.watch.before_step(unwrapped(optimizer), is_scaled=is_scaled)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forget the minibatches of the step."""
        if self.watch is not None:
            self.watch.after_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the Trainer's step and epoch."""
        if self.watch is not None:
            self.watch.log(global_step=state.global_step, epoch=state.epoch or 0.0)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kw: Any
    ) -> None:
        """Record the figures that the Trainer logs."""
        if self.watch is not None and logs:
            figures = {k: float(v) for k, v in logs.items() if isinstance(v, numbers.Real)}
            self.watch.log(**figures)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop watching."""
        self._attached.close()
        if self.watch is not None:
            self.watch.close()


@dataclass(frozen=True)
class _Minibatch:
    model: nn.Module
    inputs: Any
    arguments: Mapping[str, Any]
    random_state: RandomState


class HeldMinibatches:
    """References to the minibatches since the optimizer's last step, to repeat them if needed.

    Args:
        trainer: the Trainer.
    """

    loss_function = "compute_loss"

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._compute_loss = trainer.compute_loss
        self._held: list[_Minibatch] = []

    def hold(self, model: nn.Module, inputs: Any, arguments: Mapping[str, Any]) -> None:
        """Hold a minibatch, before its loss is computed."""
        self._held.append(_Minibatch(model, copy.copy(inputs), arguments, RandomState.now()))

    def forget(self) -> None:
        """Drop all minibatches."""
        self._held.clear()

    def inputs(self) -> Mapping[str, Tensor]:
        """Return the floating-point inputs by name; of one name, the first that is not finite."""
        named: dict[str, Tensor] = {}
        for minibatch in self._held:
            for name, value in minibatch.inputs.items():
                if not isinstance(value, Tensor) or not value.is_floating_point():
                    continue
                if name not in named or bool(named[name].isfinite().all()):
                    named[name] = value
        return named

    def owners(self) -> Sequence[object]:
        """Return the objects whose counters and figures change while a loss is computed."""
        trainer = self._trainer
        return trainer, trainer.accelerator, trainer.accelerator.gradient_state, trainer.state

    def run(self, _optimizer: Any) -> Mapping[str, Tensor]:
        """Compute losses and gradients again, until one is not finite."""
        if not self._held:
            raise CannotRunAgainError("the trainer computed no loss")
        if self._trainer.accelerator.num_processes > 1:
            raise CannotRunAgainError("several processes train together")
        if "lomo" in str(getattr(self._trainer.args.optim, "value", "")):
            raise CannotRunAgainError("the backward pass steps the optimizer itself")
        results: dict[str, Tensor] = {}
        trainer = self._trainer
        own = [p for p in self._held[0].model.parameters() if p.requires_grad]
        for minibatch in self._held:
            minibatch.random_state.restore()
            inputs = copy.copy(minibatch.inputs)

            def prepared(_: Any, inputs: Any = inputs) -> Any:
                return inputs

            def compute_loss(*args: Any, results: Any = results, **kwargs: Any) -> Any:
                loss = self._compute_loss(*args, **kwargs)
                results["loss"] = loss[0] if isinstance(loss, tuple) else loss
                return loss

            # Wrappers around `training_step` count, time and log, so call the Trainer's method.
            with replaced(trainer, _prepare_inputs=prepared, compute_loss=compute_loss):
                Trainer.training_step(
                    trainer, minibatch.model, inputs, minibatch.arguments.get("num_items_in_batch")
                )
            gradients = [p.grad for p in own if p.grad is not None]
            if not all(bool(one.isfinite().all()) for one in [*gradients, results["loss"]]):
                break
        return results


@contextmanager
def _followed(trainer: Any, watch: Watch, minibatches: HeldMinibatches) -> Any:
    """Hold each minibatch and its loss, and explain an exception that ends training."""
    compute, step = trainer.compute_loss, trainer.training_step

    @functools.wraps(compute)
    def compute_loss(model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if not (model.training and torch.is_grad_enabled()):
            return compute(model, inputs, *args, **kwargs)
        minibatches.hold(model, inputs, kwargs)
        result = compute(model, inputs, *args, **kwargs)
        loss = result[0] if isinstance(result, tuple) else result
        if isinstance(loss, Tensor):
            watch.hold(loss.detach().sum())
        return result

    @functools.wraps(step)
    def training_step(*args: Any, **kwargs: Any) -> Any:
        try:
            return step(*args, **kwargs)
        except BaseException as error:  # KeyboardInterrupt, too; raised again
            watch.end(error)
            raise

    with replaced(trainer, compute_loss=compute_loss, training_step=training_step):
        yield


def _calling_trainer(callback: EsperCallback) -> Any:
    """Return the Trainer that called a callback; it is not among the callback's arguments."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, Trainer) and callback in owner.callback_handler.callbacks:
            return owner
        frame = frame.f_back
    return None
