"""Limits while a network grows: germinations that would exceed one are masked."""

from typing import Any

import numpy as np

from esper.growth.blueprints.table import BLUEPRINTS, parameter_count
from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.hosts.seeds import EMPTY
from esper.growth.hosts.training_cost import seed_multiply_adds
from esper.growth.kernel.blending import Style
from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES, Op
from esper.simic.growing.candidates import Size
from esper.simic.requests import GrowingError, Limits

_COLUMN = {name: column for column, name in enumerate(HEAD_NAMES)}
_FIRST = {name: sum(HEAD_SIZES[:column]) for name, column in _COLUMN.items()}
_FLOAT = 4  # bytes of a parameter


class Limiter:
    """Keeps growing hosts within limits of parameters, bytes and multiply-adds.

    Args:
        env: the environment.
        limits: the limits.
        host: what a host without seeds costs.

    Attributes:
        limited_steps: steps in which a limit ruled out a seed, over all hosts.

    Raises:
        GrowingError: a host without seeds already exceeds a limit.
    """

    def __init__(self, env: GrowthVectorEnv, limits: Limits, host: Size) -> None:
        if excess := host.excess(limits):
            raise GrowingError(
                f"the host of {env.task.name} has {excess} even without growth: raise the limit"
            )
        most = np.array(
            [
                np.inf if limits.parameters is None else limits.parameters - host.parameters,
                np.inf if limits.bytes is None else (limits.bytes - host.bytes) // _FLOAT,
            ]
        )
        self.limited_steps = 0
        self._parameters = most.min()
        self._multiply_adds = (
            np.inf if limits.multiply_adds is None else limits.multiply_adds - host.multiply_adds
        )
        self._is_limited = bool(np.isfinite([self._parameters, self._multiply_adds]).any())
        self._host_parameters = env.host_parameters
        shape = env.host_shape
        self._costs = seed_multiply_adds(shape)  # [S, blueprints, 2]
        self._sizes = np.array(
            [
                [parameter_count(each, shape.channels, shape.axes, gated=g) for g in (False, True)]
                for each in BLUEPRINTS
            ]
        )  # [blueprints, 2]

    def masked(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return the environment's info with masks of what is within the limits."""
        if not self._is_limited:
            return info
        fits = self._fits(info)[..., 0]  # [N, S, blueprints]
        slot_masks = info["slot_mask_by_op"].copy()
        slot_masks[:, Op.GERMINATE] &= fits.any(axis=2)
        masks = info["action_mask"].copy()
        masks[:, _FIRST["op"] + Op.GERMINATE] &= slot_masks[:, Op.GERMINATE].any(axis=1)
        somewhere = (fits & slot_masks[:, Op.GERMINATE, :, None]).any(axis=1)
        somewhere |= ~somewhere.any(axis=1, keepdims=True)  # a head must have a choice
        start = _FIRST["blueprint"]
        masks[:, start : start + somewhere.shape[1]] &= somewhere
        acted_on = np.delete(slot_masks, Op.WAIT, axis=1).any(axis=1)
        acted_on |= ~acted_on.any(axis=1, keepdims=True)
        start = _FIRST["slot"]
        masks[:, start : start + acted_on.shape[1]] &= acted_on
        self.limited_steps += int((masks != info["action_mask"]).any(axis=1).sum())
        return info | {"action_mask": masks, "slot_mask_by_op": slot_masks}

    def allowed(self, actions: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """Return the actions, with WAIT where a germination would exceed a limit.

        A mask of one head cannot rule out combinations of slot, blueprint and style.
        """
        if not self._is_limited:
            return actions
        fits = self._fits(info)
        slot, blueprint, style = (actions[:, _COLUMN[n]] for n in ("slot", "blueprint", "style"))
        gated = (style == Style.GATED).astype(np.int64)
        fitting = fits[np.arange(len(actions)), slot, blueprint, gated]
        refused = (actions[:, _COLUMN["op"]] == Op.GERMINATE) & ~fitting
        self.limited_steps += int(refused.sum())
        return np.where(refused[:, None], Op.WAIT, actions)

    def _fits(self, info: dict[str, Any]) -> np.ndarray:
        """Return which seed fits in which slot. `[N, S, blueprints, 2]`, bool"""
        added = info["parameters"] - self._host_parameters
        present = info["blueprint"] != EMPTY
        gated = (info["style"] == Style.GATED).astype(np.int64)
        slots = np.arange(present.shape[1])
        spent = np.where(present, self._costs[slots, info["blueprint"], gated], 0).sum(axis=1)
        by_size = self._sizes[None] <= (self._parameters - added)[:, None, None]
        by_cost = self._costs[None] <= (self._multiply_adds - spent)[:, None, None, None]
        fits: np.ndarray = by_size[:, None] & by_cost
        return fits
