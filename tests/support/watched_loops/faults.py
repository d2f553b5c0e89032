"""Faults that occur in real training runs, each with what is true of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from watched_loops.plain_stages import layer_where
from watched_loops.stage import Stage
from watched_loops.truth import ANY, KINDS, SHARED, Truth, Where, no_incident

Plant = Callable[[Stage], Truth | None]
FORWARD_FAULTS = ("overflow", "division", "logarithm")
BACKWARD_FAULTS = ("distance", "masked_mean", "function")


@dataclass(frozen=True)
class Fault:
    """A kind of fault: `plant` makes it, and returns None where it has no place."""

    name: str
    plant: Plant


def _data(place: str) -> Plant:
    def plant(stage: Stage) -> Truth | None:
        if place not in stage.places:
            return None
        kind, value = stage.any_value()
        seed = stage.random.randrange(1 << 30)
        stage.at_learning(stage.any_update(), lambda: stage.plant(place, value, seed))
        return Truth(
            (SHARED,), (kind,), stage.where[place], stage.phases_of_data.get(place, ("update",)),
            can_skip=True,
            is_certain=place != "log_probs" and "off-policy" not in stage.tags,
        )  # fmt: skip

    return plant


def _reward(stage: Stage) -> Truth | None:
    if "rewards" not in stage.where:
        return None
    kind, value = stage.any_value()
    stage.at_acting(stage.any_update(), lambda: setattr(stage.world, "reward", value))
    return Truth(
        (SHARED,), (kind, "nan"), stage.where["rewards"], can_skip=True,
        is_certain="off-policy" not in stage.tags,
    )  # fmt: skip


def _observation_while_acting(stage: Stage) -> Truth | None:
    if "acted" not in stage.where:
        return None
    kind, value = stage.any_value()
    # The tanh of inf is 1, so acting is finite, and only the derivative is not.
    phases = ("acting",) if kind == "nan" else ("acting", "update")
    stage.at_acting(stage.any_update(), lambda: setattr(stage.world, "observation", value))
    return Truth(
        (SHARED,),
        (kind, "nan"),
        stage.where["acted"],
        phases,
        can_skip=True,
        is_certain=kind == "nan" and "acts" in stage.tags,
    )


def _weight_of_head(stage: Stage) -> Truth:
    kind, value = stage.any_value()
    head = stage.any_head()
    element = stage.element(head)

    def plant() -> None:
        stage.output.weight.data[element] = value

    stage.in_learning(plant)
    return Truth(
        (head,), (kind,), stage.where["output"], ("update", "acting"),
        needs_origin=_is_used_after_planting(stage),
    )  # fmt: skip


def _bias_of_head(stage: Stage) -> Truth:
    kind, value = stage.any_value()
    head = stage.any_head()
    row, _ = stage.element(head)

    def plant() -> None:
        stage.output.bias.data[row] = value

    stage.in_learning(plant)
    return Truth(
        (head,), (kind,), stage.where["output"], ("update", "acting"),
        needs_origin=_is_used_after_planting(stage),
    )  # fmt: skip


def _weight_of(part: str) -> Plant:
    def plant(stage: Stage) -> Truth | None:
        weight = stage.trunk if part == "trunk" else stage.value
        if weight is None:
            return None
        kind, value = stage.any_value()
        row = stage.random.randrange(weight[0].shape[0])

        def plant_weight() -> None:
            weight[0].data[row, 1] = value

        stage.in_learning(plant_weight)
        return Truth(
            (weight[1],), (kind,), stage.where[part], ("update", "acting"),
            needs_origin=_is_used_after_planting(stage)
            and (part == "value" or kind == "nan"),  # tanh(inf) is 1, its derivative 0
        )  # fmt: skip

    return plant


def _is_used_after_planting(stage: Stage) -> bool:
    """Return whether a weight planted between two steps is used by the second one in its update.

    Where a loss scaler leaves some steps out, it may come after the last step.
    """
    return "scaled" not in stage.tags


def _is_used_before_the_update_ends(stage: Stage) -> bool:
    """Return whether a weight that a step breaks is used by another minibatch of the update.

    Else it is seen in the weights, and no operation is known.
    """
    return stage.steps_per_update > 1 and _is_used_after_planting(stage)


def _moment(stage: Stage) -> Truth:
    """A moment of a head's weight is not finite: the weight is, after the next step."""
    head = stage.any_head()
    row, column = stage.element(head)
    kind, value = stage.any_value()
    is_adam = "rmsprop" not in stage.tags
    name = stage.random.choice(["exp_avg", "exp_avg_sq"]) if is_adam else "square_avg"
    if name != "exp_avg" and stage.random.random() < 0.5:
        kind, value = "nan", -1.0  # its root is NaN
    optimizer = stage.optimizers[stage.optimizer_of_output]

    def plant() -> None:
        optimizer.state[stage.output.weight][name][row, column] = value

    stage.in_learning(plant, stage.optimizer_of_output)
    kinds = (kind, "nan", "+inf", "-inf") if name == "exp_avg" else (kind, "nan")
    return Truth(
        (head,), kinds, stage.where["output"], ("update", "acting"),
        needs_origin=_is_used_before_the_update_ends(stage)
        and (name == "exp_avg" or kind != "+inf"),
    )  # fmt: skip


def _moment_of_trunk(stage: Stage) -> Truth:
    weight, owner = stage.trunk
    is_adam = "rmsprop" not in stage.tags
    name = stage.random.choice(["exp_avg", "exp_avg_sq"]) if is_adam else "square_avg"
    value = -1.0 if name != "exp_avg" and stage.random.random() < 0.5 else float("nan")
    optimizer = stage.optimizers[stage.optimizer_of_output]

    def plant() -> None:
        optimizer.state[weight][name][0, 1] = value

    stage.in_learning(plant, stage.optimizer_of_output)
    return Truth(
        (owner,), ("nan",), stage.where["trunk"], ("update", "acting"),
        needs_origin=_is_used_before_the_update_ends(stage),
    )  # fmt: skip


def _log_std(value: float, kinds: tuple[str, ...]) -> Plant:
    def plant(stage: Stage) -> Truth | None:
        if stage.set_log_std is None:
            return None
        names = list(stage.heads)
        number = stage.random.randrange(len(names))
        set_log_std = stage.set_log_std
        stage.in_learning(lambda: set_log_std(number, value))
        return Truth((names[number],), kinds, stage.where["log_std"], ("update", "acting"))

    return plant


def _learning_rate(stage: Stage) -> Truth:
    optimizer = stage.optimizers[0]

    def plant() -> None:
        for group in optimizer.param_groups:
            group["lr"] = 1e6
        if stage.set_rate is not None:
            stage.set_rate(1e6)

    stage.in_learning(plant)
    where = Where(ANY, ANY, ())
    return Truth(ANY, KINDS, where, ("update", "acting"), is_certain=False)


def _eps(stage: Stage) -> Truth | None:
    """Adam divides 0 by 0 where a gradient has always been 0, if `eps` is 0."""
    if "rmsprop" in stage.tags:
        return None
    for group in stage.optimizers[0].param_groups:
        group["eps"] = 0.0
    if "supervised" in stage.tags:
        return Truth(
            ("unused",),
            ("nan",),
            stage.where["unused"],
            needs_origin=_is_used_after_planting(stage),
        )
    if "dead" not in stage.tags:
        return None
    stage.world.dead = True
    return Truth(
        ("shared",), ("nan",), stage.where["trunk"], ("update", "acting"),
        needs_origin=stage.steps_per_update > 1,
    )  # fmt: skip


def _layer(name: str) -> Plant:
    def plant(stage: Stage) -> Truth | None:
        is_backward = name in BACKWARD_FAULTS
        if "half" in stage.tags and is_backward:
            return None  # the loss scaler takes it for an overflow, and skips the step
        if is_backward and "backward" in stage.cannot:
            return None
        while_acting = not is_backward and "acts" in stage.tags and stage.random.random() < 0.5
        at = stage.at_acting if while_acting else stage.at_learning
        at(stage.any_update(), lambda: setattr(stage.layer, "fault", name))
        quantities = ("gradient",) if is_backward else ("features", "hidden", "latent", "output")
        owner = stage.layer_owner
        phases = ("acting",) if while_acting else ("update",)
        if not is_backward and not while_acting:
            phases = stage.phases_of_data.get("layer", phases)
        kinds = ("+inf", "-inf", "nan") if name != "logarithm" else ("nan",)
        return Truth((owner,), kinds, layer_where(name, quantities), phases, can_skip=True)

    return plant


def _setting(stage: Stage) -> Truth | None:
    """A coefficient of the loss is infinite."""
    if not stage.settings:
        return None
    name = stage.random.choice(sorted(stage.settings))
    value = stage.random.choice([float("inf"), float("nan")])
    stage.at_learning(stage.any_update(), lambda: stage.settings[name](value))
    return Truth((SHARED,), KINDS, stage.where["loss"], can_skip=True)


def _huge_rewards(stage: Stage) -> Truth | None:
    """The norm of finite gradients overflows, and clipping makes every gradient 0."""
    if "ppo" not in stage.tags or "clips" not in stage.tags:
        return None
    stage.world.reward_scale = 1e19
    stage.updates = 7
    where = Where(("loss", "gradient"), ANY, ())
    return replace(no_incident(stalls=True), where=where, owners=(SHARED,), kinds=("+inf", "nan"))


def _half_overflow(stage: Stage) -> Truth | None:
    """Activations exceed what half precision can hold."""
    if "half" not in stage.tags or "scaled" in stage.tags:
        return None
    stage.at_learning(stage.any_update(), lambda: stage.model.head.weight.data.mul_(1e7))
    where = replace(stage.where["output"], quantities=("logits",))
    return Truth(("class",), KINDS, where)


FAULTS = (
    Fault("observation in a batch", _data("observations")),
    Fault("next observation in a batch", _data("next_observations")),
    Fault("reward", _reward),
    Fault("reward in a batch", _data("rewards")),
    Fault("advantage", _data("advantages")),
    Fault("return", _data("returns")),
    Fault("old log-prob", _data("log_probs")),
    Fault("observation while acting", _observation_while_acting),
    Fault("weight of a head", _weight_of_head),
    Fault("bias of a head", _bias_of_head),
    Fault("weight of the trunk", _weight_of("trunk")),
    Fault("weight of the value", _weight_of("value")),
    Fault("moment of a head", _moment),
    Fault("moment of the trunk", _moment_of_trunk),
    Fault("log_std NaN", _log_std(float("nan"), ("nan",))),
    Fault("log_std 100", _log_std(100.0, ("+inf", "-inf", "nan"))),
    Fault("learning rate 1e6", _learning_rate),
    Fault("eps 0", _eps),
    *(Fault(f"layer: {name}", _layer(name)) for name in (*FORWARD_FAULTS, *BACKWARD_FAULTS)),
    Fault("coefficient of the loss", _setting),
    Fault("rewards of 1e19", _huge_rewards),
    Fault("half precision", _half_overflow),
)


def _ordinary(stage: Stage) -> Truth:
    return no_incident()


def _huge_observations(stage: Stage) -> Truth | None:
    if "half" in stage.tags:
        return None
    # The second moment of an off-policy critic without clipping is their fourth power.
    stage.world.observation_scale = 1e6 if "off-policy" in stage.tags else 1e15
    return no_incident()


def _huge_rewards_finite(stage: Stage) -> Truth | None:
    if "half" in stage.tags:
        return None
    stage.world.reward_scale = 1e9
    return no_incident()


def _huge_logits(stage: Stage) -> Truth:
    """The sum of the outputs overflows, although each is finite."""
    is_squared = stage.set_log_std is not None or "off-policy" in stage.tags
    stage.output.bias.data.fill_(6e4 if "half" in stage.tags else 1e15 if is_squared else 6e37)
    return no_incident()


CLEAN = (
    Fault("ordinary", _ordinary),
    Fault("huge observations", _huge_observations),
    Fault("large rewards", _huge_rewards_finite),
    Fault("huge outputs", _huge_logits),
)
