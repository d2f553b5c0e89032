"""Classes of Stable-Baselines3, sb3-contrib and torch that an update may be rebuilt from.

Only these are looked up, so an untrusted capsule cannot name any other class.
"""

from collections.abc import Mapping
from typing import Final

_COMMON: Final = "stable_baselines3.common."
_CONTRIB: Final = "sb3_contrib.common."
#: Classes of algorithms, with the names of the arrays in their rollout buffer.
ALGORITHMS: Final[Mapping[str, tuple[str, ...]]] = {
    "stable_baselines3.ppo.ppo.PPO": (),
    "stable_baselines3.a2c.a2c.A2C": (),
    "sb3_contrib.ppo_mask.ppo_mask.MaskablePPO": ("action_masks",),
    "sb3_contrib.ppo_recurrent.ppo_recurrent.RecurrentPPO": (
        *("hidden_states_pi", "cell_states_pi", "hidden_states_vf", "cell_states_vf"),
    ),
}
POLICIES: Final = (
    *(f"{_COMMON}policies.{name}ActorCriticPolicy" for name in ("", "MultiInput")),
    f"{_COMMON}policies.ActorCriticCnnPolicy",
    *(
        f"{_CONTRIB}maskable.policies.Maskable{name}ActorCriticPolicy"
        for name in ("", "MultiInput")
    ),
    f"{_CONTRIB}maskable.policies.MaskableActorCriticCnnPolicy",
    *(
        f"{_CONTRIB}recurrent.policies.Recurrent{name}ActorCriticPolicy"
        for name in ("", "MultiInput")
    ),
    f"{_CONTRIB}recurrent.policies.RecurrentActorCriticCnnPolicy",
)
EXTRACTORS: Final = tuple(
    f"{_COMMON}torch_layers.{name}"
    for name in ("FlattenExtractor", "NatureCNN", "CombinedExtractor")
)
OPTIMIZERS: Final = (
    *(f"torch.optim.{name}" for name in ("adam.Adam", "adamw.AdamW", "sgd.SGD", "rmsprop.RMSprop")),
    f"{_COMMON}sb2_compat.rmsprop_tf_like.RMSpropTFLike",
)
ACTIVATIONS: Final = tuple(
    f"torch.nn.modules.activation.{name}"
    for name in ("Tanh", "ReLU", "ELU", "LeakyReLU", "GELU", "SiLU", "Sigmoid", "Softplus", "Mish")
)
BUFFERS: Final = tuple(
    f"{module}.{name}RolloutBuffer"
    for module, names in (
        (f"{_COMMON}buffers", ("", "Dict")),
        (f"{_CONTRIB}maskable.buffers", ("Maskable", "MaskableDict")),
        (f"{_CONTRIB}recurrent.buffers", ("Recurrent", "RecurrentDict")),
    )
    for name in names
)
#: Arrays of every rollout buffer.
ARRAYS: Final = (
    *("observations", "actions", "rewards", "returns", "episode_starts", "values"),
    *("log_probs", "advantages"),
)
