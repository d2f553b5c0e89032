"""Faults that are planted in a Stable-Baselines3 training."""

from collections.abc import Callable
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

NAN, INF = float("nan"), float("inf")


class Planted(BaseCallback):
    """Calls a function with the algorithm, at the end of a rollout or at a step of acting.

    Args:
        plant: the function.
        rollout: number of the rollout, counted from 1; 0 for none.
        step: number of the step, counted from 1; 0 for none.
    """

    def __init__(
        self, plant: Callable[[BaseAlgorithm], None], *, rollout: int = 0, step: int = 0
    ) -> None:
        super().__init__()
        self._plant, self._rollout, self._step = plant, rollout, step
        self._rollouts = 0

    def _on_step(self) -> bool:
        if self.n_calls == self._step:
            self._plant(self.model)
        return True

    def _on_rollout_end(self) -> None:
        self._rollouts += 1
        if self._rollouts == self._rollout:
            self._plant(self.model)


def in_rollout(name: str, value: float) -> Planted:
    """Plant a value in an array of the second rollout."""

    def plant(model: Any) -> None:
        getattr(model.rollout_buffer, name)[3, 0] = value

    return Planted(plant, rollout=2)


def in_parameter(name: str, index: Any, value: float, *, step: int = 0) -> Planted:
    """Plant a value in a parameter, at a step or at the end of the second rollout."""

    def plant(model: Any) -> None:
        dict(model.policy.named_parameters())[name].data[index] = value

    return Planted(plant, step=step, rollout=0 if step else 2)


def in_moment(name: str, index: Any, value: float, moment: str = "exp_avg") -> Planted:
    """Plant a value in what the optimizer keeps of a parameter."""

    def plant(model: Any) -> None:
        parameter = dict(model.policy.named_parameters())[name]
        model.policy.optimizer.state[parameter][moment][index] = value

    return Planted(plant, rollout=2)


def planted_step(
    at: int, *, observation: float | None = None, reward: float | None = None
) -> Callable[[int, Any, float], tuple[Any, float]]:
    """Return what plants an observation or a reward at one step of a `Walk`."""

    def plant(step: int, seen: Any, earned: float) -> tuple[Any, float]:
        if step == at and observation is not None:
            seen[1] = observation
        return seen, reward if step == at and reward is not None else earned

    return plant
