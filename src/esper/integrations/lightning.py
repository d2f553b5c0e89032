"""A callback for Lightning's Trainer, with automatic and manual optimization.

```python
Trainer(callbacks=[EsperCallback()]).fit(module, data)
```
"""

import functools
import logging
import numbers
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import gymnasium
import torch
from torch import Tensor

from esper.integrations.replacing import replaced
from esper.recipes.recipe import Subject
from esper.services.watched_run import watch
from esper.watching.finding.repeating.cannot_run_again import CannotRunAgainError
from esper.watching.finding.repeating.repeater import RandomState
from esper.watching.finding.repeating.rerun import refuse_effects
from esper.watching.finding.steps_left_out import StepReached
from esper.watching.watch import Watch

try:
    from lightning.pytorch import Callback
    from lightning.pytorch.loggers.logger import DummyLogger

    _LIBRARY = "lightning"
except ModuleNotFoundError:  # the same code, in the distribution pytorch-lightning
    # For mypy, these are not the same classes as those above.
    from pytorch_lightning import Callback  # type: ignore[assignment]
    from pytorch_lightning.loggers.logger import DummyLogger  # type: ignore[assignment]

    _LIBRARY = "pytorch-lightning"

_SHARDED: Final = ("FSDP", "DeepSpeed", "ModelParallel")
_SETTINGS: Final = (
    *("max_epochs", "max_steps", "accumulate_grad_batches", "gradient_clip_val", "precision"),
)
_log = logging.getLogger("esper")


class EsperCallback(Callback):
    """Watches the training of a LightningModule: `Trainer(callbacks=[EsperCallback()])`.

    An update is a batch with at least one step of an optimizer. Under DDP, the processes record one
    run; models that a strategy shards (FSDP, DeepSpeed) are not watched.

    Args:
        options: options of `esper.watch`, such as `heads`, `name`, `run_dir` and `on_nonfinite`.

    Attributes:
        watch: the watch; None before training.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._options = options
        self._attached = ExitStack()
        self.watch: Watch | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start watching."""
        self._attached.close()
        self.watch = None
        if any(part in type(trainer.strategy).__name__ for part in _SHARDED):
            _log.warning("Esper does not watch models that %s shards", type(trainer.strategy))
            return
        batches = HeldBatches(trainer, pl_module)
        options = {"when": "step"} | self._options
        self.watch = watch(_subject(trainer, pl_module, batches), finds_updates=False, **options)
        self._attached.enter_context(_followed(trainer, pl_module, self.watch, batches))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Check the gradients and the loss; hooks of `Optimizer.step` would run too early."""
        if self.watch is not None:
            is_scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
            self.watch.before_step(optimizer, is_scaled=is_scaled)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the update, unless gradients are still being accumulated."""
        if self.watch is None or not self.watch.has_stepped:
            return
        self.watch.after_step()
        figures = {"global_step": float(trainer.global_step), "epoch": trainer.current_epoch}
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:
            figures |= _figures(trainer)
        self.watch.update(**figures)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Record the figures of the validation."""
        if self.watch is not None and not trainer.sanity_checking:
            self.watch.log(**_figures(trainer))

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Explain an exception that ends training."""
        if self.watch is not None:
            self.watch.end(exception)
        self._attached.close()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop watching."""
        self._attached.close()
        if self.watch is not None:
            self.watch.close()


@dataclass(frozen=True)
class _Batch:
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    random_state: RandomState
    is_trained: tuple[bool, ...]  # by parameter: `toggle_optimizer` changes it in a training step
    toggled: Mapping[Any, bool]


class HeldBatches:
    """References to the batches since the optimizer's last step, to repeat them if needed.

    Args:
        trainer: the Trainer that runs the loop.
        module: the module whose `training_step` computes the loss.
    """

    loss_function = "training_step"

    def __init__(self, trainer: Any, module: Any) -> None:
        self._trainer = trainer
        self._module = module
        self._training_step = trainer.strategy.training_step
        self._held: list[_Batch] = []
        self.is_stepping = False  # while `training_step` runs, which may step optimizers itself

    def hold(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        """Hold a batch, before its loss is computed."""
        is_trained = tuple(parameter.requires_grad for parameter in self._module.parameters())
        toggled = dict(self._module._param_requires_grad_state)
        self._held.append(_Batch(arguments, keywords, RandomState.now(), is_trained, toggled))

    def forget(self) -> None:
        """Drop all batches, except one whose training step has not ended."""
        del self._held[: -1 if self.is_stepping else None]

    def inputs(self) -> Mapping[str, Tensor]:
        """Return the floating-point tensors in the batches, by position or key."""
        named: dict[str, Tensor] = {}
        for held in self._held:
            for name, value in _tensors("batch", held.arguments[:1]):
                if name not in named or bool(named[name].isfinite().all()):
                    named[name] = value
        return named

    def owners(self) -> Sequence[object]:
        """Return nothing: a repetition does not log, so it changes no counters."""
        return ()

    def run(self, optimizer: torch.optim.Optimizer | None) -> Mapping[str, Tensor]:
        """Compute losses and gradients again, until one is not finite."""
        if not self._held:
            raise CannotRunAgainError("no training step was called since the last step")
        if self._trainer.world_size > 1:
            raise CannotRunAgainError("several processes train together")
        if _holds_environment(self._module):
            raise CannotRunAgainError("the module has an environment, which it might step")
        refuse_effects(type(self._module).training_step)
        results: dict[str, Tensor] = {}
        with ExitStack() as stack:
            self._leave_out(stack, optimizer)
            for held in self._held:
                held.random_state.restore()
                self._module._param_requires_grad_state = dict(held.toggled)
                for one, is_trained in zip(self._module.parameters(), held.is_trained, strict=True):
                    one.requires_grad_(is_trained)
                self._compute(held, results)
                if not self._is_finite(results):
                    break
        return results

    def _compute(self, held: _Batch, results: dict[str, Tensor]) -> None:
        trainer = self._trainer
        try:
            output = self._training_step(*held.arguments, **held.keywords)
        except StepReached:
            return
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if isinstance(loss, Tensor):
            results["loss"] = loss
            if self._module.automatic_optimization:
                self._backward(loss / trainer.accumulate_grad_batches)

    def _backward(self, loss: Tensor, *arguments: Any, **keywords: Any) -> None:
        scaler = getattr(self._trainer.precision_plugin, "scaler", None)
        (loss if scaler is None else scaler.scale(loss)).backward(*arguments, **keywords)

    def _is_finite(self, results: Mapping[str, Tensor]) -> bool:
        gradients = [p.grad for p in self._module.parameters() if p.grad is not None]
        return all(bool(one.isfinite().all()) for one in (*gradients, *results.values()))

    def _leave_out(self, stack: ExitStack, last: torch.optim.Optimizer | None) -> None:
        """Disable logging, learning-rate schedulers and optimizer steps."""

        def nothing(*_: Any, **__: Any) -> None: ...

        module, trainer = self._module, self._trainer
        loggers = [DummyLogger() for _ in trainer.loggers]
        stack.enter_context(replaced(trainer, _loggers=loggers))
        stack.enter_context(
            replaced(
                module, log=nothing, log_dict=nothing, print=nothing, manual_backward=self._backward
            )
        )
        for wrapper in trainer.strategy._lightning_optimizers:

            def step(closure: Any = None, own: Any = wrapper.optimizer, **_: Any) -> None:
                if closure is not None:
                    closure()
                if own is last or last is None:
                    raise StepReached

            stack.enter_context(replaced(wrapper, step=step))
        for configuration in trainer.lr_scheduler_configs:
            stack.enter_context(replaced(configuration.scheduler, step=nothing))


@contextmanager
def _followed(trainer: Any, module: Any, watch: Watch, batches: HeldBatches) -> Iterator[None]:
    """Hold each batch and its loss, and report each optimizer step that has ended."""
    original = trainer.strategy.training_step

    @functools.wraps(original)
    def training_step(*arguments: Any, **keywords: Any) -> Any:
        batches.hold(arguments, keywords)
        batches.is_stepping = True
        try:
            output = original(*arguments, **keywords)
        finally:
            batches.is_stepping = False
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if isinstance(loss, Tensor) and module.automatic_optimization:
            watch.hold(loss.detach().sum())
        return output

    with ExitStack() as stack:
        for optimizer in trainer.optimizers:
            handle = optimizer.register_step_post_hook(lambda *_: watch.after_step())
            stack.callback(handle.remove)
        stack.enter_context(replaced(trainer.strategy, training_step=training_step))
        yield


def _subject(trainer: Any, module: Any, batches: HeldBatches) -> Subject:
    settings = {name: getattr(trainer, name, None) for name in _SETTINGS}
    settings |= {f"hparams.{name}": value for name, value in dict(module.hparams).items()}
    seed = os.environ.get("PL_GLOBAL_SEED", "")
    return Subject(
        models=[module],
        optimizers=list(trainer.optimizers),
        library=_LIBRARY,
        task=type(module).__name__,
        seed=int(seed) if seed.isdigit() else None,
        config={
            name: value for name, value in settings.items() if isinstance(value, (int, float, str))
        },
        repeater=batches,
        reports_steps=True,
    )


def _figures(trainer: Any) -> dict[str, float]:
    """Return what the module logged, by name."""
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if isinstance(value, numbers.Real) or (isinstance(value, Tensor) and value.numel() == 1)
    }


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(f"{name}[{key!r}]", item)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _tensors(name if len(value) == 1 else f"{name}[{number}]", item)


def _holds_environment(module: Any) -> bool:
    """Return whether a module, or one of its attributes, has an environment."""
    kinds = (gymnasium.Env, gymnasium.vector.VectorEnv)
    held = list(vars(module).values())
    inner = [each for one in held if hasattr(one, "__dict__") for each in vars(one).values()]
    return any(isinstance(one, kinds) for one in (*held, *inner))
