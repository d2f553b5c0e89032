"""Callback for Stable-Baselines3 and sb3-contrib."""

import logging
import sys
import time
from contextlib import nullcontext
from types import FrameType, MethodType
from typing import Any, Final
from weakref import WeakKeyDictionary

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from esper.integrations.sb3_inputs import EnvironmentInputs
from esper.leyline.telemetry import SHARED
from esper.recipes.sb3.figures import figures_of, run_name
from esper.recording.place import Continued
from esper.recording.run_recorder import RunRecorder
from esper.services.watched_run import UnwritableRunError, watch
from esper.watching.watch import Watch

#: Off-policy algorithms train after every few steps; calls within this time are one update.
_UPDATE_SECONDS: Final = 1.0
#: Methods that learn; the second one belongs to ARS, which has no gradients.
_LEARNING: Final = ("train", "_do_one_update")
_ACTING: Final = "collect_rollouts"
_SAVED: Final = "_excluded_save_params"
_log = logging.getLogger("esper")
#: The run that `learn(reset_num_timesteps=False)` continues, by algorithm.
_continued: "WeakKeyDictionary[BaseAlgorithm, Continued]" = WeakKeyDictionary()


class EsperCallback(BaseCallback):
    """Watches the training of an algorithm: `model.learn(…, callback=EsperCallback())`.

    Each call of `learn` is a run; with `reset_num_timesteps=False` it continues the previous run.
    One update of an on-policy algorithm is one call of its `train`; off-policy algorithms,
    which learn after every few steps, have about one update per second. ARS has no gradients: its
    weights, outputs and the returns of its candidates are watched.

    Args:
        verbose: accepted for compatibility with the library's callbacks; not used.
        options: options of `esper.watch`, such as `name`, `run_dir`, `on_nonfinite` and `groups`.

    Attributes:
        watch: the watch; None before training.
    """

    def __init__(self, verbose: int = 0, **options: Any) -> None:
        super().__init__(verbose)
        self._options = options
        self.watch: Watch | None = None
        self._last_end = 0.0
        self._inputs: EnvironmentInputs | None = None

    def _on_training_start(self) -> None:
        if self.watch is not None:
            self.watch.close()
        options = {"name": run_name(self.model), **self._options}
        continues = _continued.get(self.model) if self.model._num_timesteps_at_start else None
        try:
            self.watch = watch(self.model, finds_updates=False, continues=continues, **options)
        except UnwritableRunError as error:
            if self.model not in _continued:
                raise
            # Do not end a script that has already trained for hours.
            self.watch = None
            _log.warning("training continues, but this call of learn is not watched: %s", error)
            return
        self._last_end = time.monotonic()
        self._inputs = EnvironmentInputs(self.model, self.watch)
        with self.watch.guard:
            self._inputs.look_at_reset()
        for name in (*_LEARNING, _ACTING, _SAVED):
            if hasattr(self.model, name):
                setattr(self.model, name, _WatchedMethod(self.model, name, self))

    def _on_rollout_end(self) -> None:
        evaluation = _calling("evaluate_candidates")  # of ARS
        if self.watch is not None and evaluation is not None:
            returns = evaluation.f_locals["candidate_returns"]
            self.watch.check(SHARED, returns, "candidate_returns")

    def _on_step(self) -> bool:
        if self.watch is not None and self._inputs is not None:
            with self.watch.guard:
                self._inputs.look(self.locals)
        return True

    def _on_training_end(self) -> None:
        self.end(None)

    def call(self, name: str, method: MethodType, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the watched algorithm; log the cause of an exception in it."""
        assert self.watch is not None
        with nullcontext() if name == _ACTING else self.watch.updating():
            try:
                result = method(*args, **kwargs)
            except BaseException as error:  # KeyboardInterrupt, too; raised again
                self.end(error)
                raise
            if name != _ACTING:
                self._end_update(name)
            return result

    def end(self, error: BaseException | None) -> None:
        """Close the watch, and restore the algorithm's own methods."""
        for name in (*_LEARNING, _ACTING, _SAVED):
            vars(self.model).pop(name, None)
        if self.watch is None:
            return
        if error is None and self.watch.has_stepped:
            with self.watch.updating():
                self._record_update(self.watch)
        self.watch.end(error)
        if isinstance(recorder := self.watch.recorder, RunRecorder):
            _continued[self.model] = recorder.continued

    def _end_update(self, name: str) -> None:
        assert self.watch is not None
        is_long = time.monotonic() - self._last_end >= _UPDATE_SECONDS
        if isinstance(self.model, OffPolicyAlgorithm) and not is_long:
            return
        if self.watch.has_stepped or name != "train":
            self._last_end = time.monotonic()
            self._record_update(self.watch)

    def _record_update(self, watched: Watch) -> None:
        figures = figures_of(self.model)
        for loss in [one for one in figures if one.endswith("loss")]:
            if watched.is_clean:  # the gradients of an infinite Huber loss are finite
                watched.check(SHARED, figures[loss], loss)
        watched.update(**figures)


class _WatchedMethod:
    """Replaces a method of an algorithm while it is watched.

    It is not saved with the algorithm; copies and pickles contain the original method.
    """

    def __init__(self, model: BaseAlgorithm, name: str, callback: EsperCallback) -> None:
        self._model = model
        self._name = name
        self._method: MethodType = getattr(model, name)
        self._callback = callback

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method."""
        if self._name == _SAVED:
            return [*self._method(), *_LEARNING, _ACTING, _SAVED]
        return self._callback.call(self._name, self._method, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return the method of the copied algorithm."""
        copied = memo[id(self._model)]
        return MethodType(getattr(type(copied), self._name), copied)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the method itself."""
        return getattr, (self._model, self._name)


def _calling(function: str) -> FrameType | None:
    """Return the frame of the function with this name; None if it is not on the stack."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != function:
        frame = frame.f_back
    return frame
