"""A Stable-Baselines3 callback; it serves sb3-contrib as well."""

import time
from typing import Any, Final

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from esper.recipes.sb3 import figures_of
from esper.watched_run import watch
from esper.watching.watch import Watch

#: Off-policy algorithms train after every few steps: updates of that length are recorded as one.
_UPDATE_SECONDS: Final = 1.0


class EsperCallback(BaseCallback):
    """Watches the training of an algorithm: `model.learn(…, callback=EsperCallback())`.

    Args:
        verbose: as for every callback of the library; not used.
        options: options of `esper.watch`, such as `name`, `run_dir`, `on_nonfinite` and `groups`.

    Attributes:
        watch: the watch; None before training.
    """

    def __init__(self, verbose: int = 0, **options: Any) -> None:
        super().__init__(verbose)
        self._options = options
        self.watch: Watch | None = None
        self._last_end = 0.0

    def _on_training_start(self) -> None:
        self.watch = watch(self.model, finds_updates=False, **self._options)
        self._last_end = time.monotonic()

    def _on_rollout_start(self) -> None:
        """End the update that came before this rollout, if there was one."""
        self._end_update(at_least=self._seconds_per_update)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._end_update()
        if self.watch is not None:
            self.watch.close()

    @property
    def _seconds_per_update(self) -> float:
        return _UPDATE_SECONDS if isinstance(self.model, OffPolicyAlgorithm) else 0.0

    def _end_update(self, at_least: float = 0.0) -> None:
        now = time.monotonic()
        if self.watch is None or not self.watch.has_stepped or now - self._last_end < at_least:
            return
        self._last_end = now
        self.watch.update(**figures_of(self.model))
