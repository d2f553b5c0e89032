"""Checks whether the environments of a Stable-Baselines3 algorithm return finite values."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from esper.watching.watch import Watch

#: The library's names for values from an environment.
_OBSERVATION: Final = "new_obs"
_TERMINAL: Final = "terminal_observation"
_REWARDS: Final = "rewards"


class EnvironmentInputs:
    """Checks the observations and rewards of each step while acting.

    The sum of squares is checked first; only if it is not finite, each number is checked.

    Args:
        model: the algorithm.
        watch: receives non-finite values.
    """

    def __init__(self, model: BaseAlgorithm, watch: Watch) -> None:
        self._model = model
        self._watch = watch
        self._is_off_policy = isinstance(model, OffPolicyAlgorithm)

    def look_at_reset(self) -> None:
        """Check the initial observations."""
        observations = getattr(self._model, "_last_obs", None)
        if observations is not None and not _is_finite(observations):
            self._report_all(_OBSERVATION, observations)

    def look(self, step: Mapping[str, Any]) -> None:
        """Check one step.

        Args:
            step: local variables of the library's loop.
        """
        rewards, observations = step.get("rewards"), step.get("new_obs")
        if rewards is not None and not _is_finite(rewards):
            self._report_all(_REWARDS, rewards)
        if observations is not None and not _is_finite(observations):
            self._report_all(_OBSERVATION, observations)
        for environment, info in enumerate(step.get("infos") or ()):
            terminal = info.get("terminal_observation")
            if terminal is None or _is_finite(terminal):
                continue
            # On-policy algorithms use it only to estimate a value where an episode was truncated.
            if self._is_off_policy or info.get("TimeLimit.truncated", False):
                for name, values in _arrays(_TERMINAL, terminal):
                    self._report(name, values, environment)

    def _report_all(self, name: str, values: Any) -> None:
        for full_name, array in _arrays(name, self._original(name, values)):
            for environment, own in enumerate(array):
                self._report(full_name, own, environment)

    def _original(self, name: str, values: Any) -> Any:
        """Return the values before normalization, which spreads a NaN to all environments."""
        normalizing = self._model.get_vec_normalize_env()
        if normalizing is None:
            return values
        is_reward = name == _REWARDS
        before = normalizing.get_original_reward() if is_reward else normalizing.get_original_obs()
        return values if _is_finite(before) else before

    def _report(self, name: str, values: Any, environment: int) -> None:
        values = np.asarray(values)
        if values.dtype.kind != "f":
            return
        bad = np.argwhere(~np.isfinite(values))
        if len(bad) == 1 and values.ndim:
            name = f"{name}[{', '.join(map(str, bad[0]))}]"
        kinds = {"nan": np.isnan(values), "+inf": values == np.inf, "-inf": values == -np.inf}
        for kind, places in kinds.items():
            if places.any():
                self._watch.came_in(
                    name,
                    kind,
                    environment,
                    self._model.num_timesteps // self._model.n_envs,
                    is_observation=name.startswith(_OBSERVATION),
                    is_kept=self._is_off_policy,
                )


def _is_finite(values: Any) -> bool:
    """Return whether all floating-point numbers in a value or nested arrays are finite."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind != "f" or math.isfinite(np.vdot(values, values)):
            return True
        return bool(np.isfinite(values).all())
    if isinstance(values, Mapping):
        return all(map(_is_finite, values.values()))
    if isinstance(values, Sequence) and not isinstance(values, str):
        return all(map(_is_finite, values))
    return not isinstance(values, float) or math.isfinite(values)


def _arrays(name: str, values: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and array for each array of an observation."""
    if isinstance(values, Mapping):
        for key, one in values.items():
            yield f"{name}[{key!r}]", one
    else:
        yield name, values
