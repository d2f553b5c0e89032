"""All kinds of natural faults, each with its true origin.

The origin was derived from the arithmetic of each fault, not from the answer of a replay.
"""

import math
from random import Random
from typing import Any

from natural_faults.cause import (
    AUTOCAST_LINEAR,
    CRITIC,
    HEADS,
    INFINITE,
    LINEAR,
    LSTM,
    TRUNK,
    VALUES,
    Cause,
)
from natural_faults.rollouts import (
    bad_initial_state,
    bad_next_value,
    bad_observation,
    bad_reward,
    bad_value,
    every_choice_forbidden,
    forbidden_choice_taken,
    huge_observation,
    huge_reward,
    opposite_value_and_reward,
    overflowing_observation,
    overflowing_return,
    overflowing_siblings,
    reward_and_future_too_large,
)
from natural_faults.training_state import (
    bad_clock,
    bad_group,
    bad_learning_rate,
    bad_moment,
    exploding_ratio,
    hidden_weight_of_the_critic,
    huge_entropy_coefficient,
    huge_first_moment,
    huge_learning_rate,
    huge_value_coefficient,
    huge_value_coefficient_and_rewards,
    negative_second_moment,
    no_eps,
)
from natural_faults.user_causes import USER_CODE
from natural_faults.weights import (
    bad_loss_scale,
    bad_weight,
    brain_float_overflow_of_a_weight,
    exploding_lstm,
    half_overflow_of_a_product,
    half_overflow_of_a_weight,
    half_overflow_of_an_observation,
    huge_bias_of_the_critic,
    huge_weight_of_a_head,
    huge_weight_of_the_critic,
    huge_weights_of_the_features,
    logits_too_far_apart,
    overflowing_features,
    two_weights_of_two_heads,
)


def huge_rate(random: Random) -> dict[str, Any]:
    return {"learning_rate": 10 ** random.uniform(23, 34)}


OFF, HALF, BRAIN = ("off",), ("fp16",), ("bf16",)
WIDE = ("off", "bf16")
CAUSES: tuple[Cause, ...] = (
    Cause("weight of a head", bad_weight("heads.weight", LINEAR, HEADS)),
    Cause("bias of a head", bad_weight("heads.bias", LINEAR, HEADS)),
    Cause("infinite bias of a head", bad_weight("heads.bias", LINEAR, HEADS, kinds=tuple(VALUES))),
    Cause("weight of the critic", bad_weight("critic.weight", LINEAR, CRITIC)),
    Cause("bias of the critic", bad_weight("critic.bias", LINEAR, CRITIC, kinds=tuple(VALUES))),
    Cause("weight of the features", bad_weight("features.weight", AUTOCAST_LINEAR, TRUNK)),
    Cause("bias of the features", bad_weight("features.bias", AUTOCAST_LINEAR, TRUNK)),
    Cause("gain of the norm", bad_weight("feature_norm.weight", ("native_layer_norm",), TRUNK)),
    Cause("bias of the norm", bad_weight("feature_norm.bias", ("native_layer_norm",), TRUNK)),
    Cause("input weight of the LSTM", bad_weight("lstm.weight_ih_l0", LSTM, TRUNK)),
    Cause("state weight of the LSTM", bad_weight("lstm.weight_hh_l0", LSTM, TRUNK)),
    Cause("bias of the LSTM", bad_weight("lstm.bias_ih_l0", LSTM, TRUNK)),
    Cause("two heads at once", two_weights_of_two_heads),
    Cause("huge weight of a head", huge_weight_of_a_head),
    Cause("huge weight of the critic", huge_weight_of_the_critic),
    Cause("huge bias of the critic", huge_bias_of_the_critic),
    Cause("huge weights of the features", huge_weights_of_the_features, precisions=WIDE),
    Cause("overflowing features", overflowing_features, precisions=WIDE),
    Cause("exploding LSTM", exploding_lstm, precisions=OFF),
    Cause("logits too far apart", logits_too_far_apart),
    Cause("fp16 weight", half_overflow_of_a_weight, precisions=HALF),
    Cause("fp16 product", half_overflow_of_a_product, precisions=HALF),
    Cause("fp16 observation", half_overflow_of_an_observation, precisions=HALF),
    Cause("bf16 weight", brain_float_overflow_of_a_weight, precisions=BRAIN),
    Cause("loss scale NaN", bad_loss_scale(math.nan, "nan"), precisions=HALF),
    Cause("loss scale infinite", bad_loss_scale(math.inf, "+inf"), precisions=HALF),
    Cause("observation", bad_observation),
    Cause("huge observation", huge_observation, precisions=WIDE),
    Cause("overflowing observation", overflowing_observation, precisions=OFF),
    Cause("reward", bad_reward),
    Cause("value", bad_value),
    Cause("value of what followed", bad_next_value),
    Cause("huge reward", huge_reward),
    Cause("overflowing return", overflowing_return, (("gamma", 1.0), ("siblings", 1))),
    Cause("overflowing siblings", overflowing_siblings, (("siblings", 4),)),
    Cause("opposite value and reward", opposite_value_and_reward),
    Cause("reward and future", reward_and_future_too_large, (("gamma", 1.0),)),
    Cause("initial state", bad_initial_state),
    Cause("forbidden choice", forbidden_choice_taken),
    Cause("every choice forbidden", every_choice_forbidden),
    Cause("huge learning rate", huge_learning_rate, precisions=WIDE, draw=huge_rate),
    Cause("learning rate NaN", bad_learning_rate("nan")),
    Cause("learning rate infinite", bad_learning_rate("+inf")),
    Cause("value coefficient", huge_value_coefficient, (("value_coefficient", 3e38),)),
    Cause(
        "value coefficient and rewards",
        huge_value_coefficient_and_rewards,
        (("value_coefficient", 1e30),),
    ),
    # Under fp16 the loss scale multiplies the coefficient first, and this product overflows.
    Cause(
        "entropy coefficient",
        huge_entropy_coefficient,
        (("entropy_coefficient", 3e37),),
        precisions=WIDE,
    ),
    Cause(
        "exploding ratio",
        exploding_ratio,
        (
            ("learning_rate", 200.0),
            ("gamma", 0.0),
            ("gae_lambda", 0.0),
            ("siblings", 1),
            ("entropy_coefficient", 0.0),
        ),
    ),
    Cause("hidden weight of the critic", hidden_weight_of_the_critic, precisions=OFF),
    Cause("first moment", bad_moment("exp_avg")),
    Cause("second moment", bad_moment("exp_avg_sq")),
    Cause("negative second moment", negative_second_moment),
    Cause("huge first moment", huge_first_moment),
    Cause("step NaN", bad_clock(math.nan, ("nan",))),
    Cause("step of -1", bad_clock(-1.0, ())),
    Cause("step below -1", bad_clock(-7.0, ())),
    Cause("beta1 of 1", bad_group("beta1 = 1", betas=(1.0, 0.999))),
    Cause("beta2 of 1", bad_group("beta2 = 1", betas=(0.9, 1.0))),
    Cause("weight decay", bad_group("weight_decay = 1e+38", weight_decay=1e38)),
    Cause("no eps", no_eps),
    *USER_CODE,
    Cause(
        "infinite bias of the norm",
        bad_weight("feature_norm.bias", ("native_layer_norm",), TRUNK, kinds=INFINITE),
    ),
    Cause("infinite bias of the LSTM", bad_weight("lstm.bias_ih_l0", LSTM, TRUNK, kinds=INFINITE)),
    Cause(
        "infinite state bias of the LSTM",
        bad_weight("lstm.bias_hh_l0", LSTM, TRUNK, kinds=INFINITE),
    ),
    Cause("step infinite", bad_clock(math.inf, ("inf",))),
)
