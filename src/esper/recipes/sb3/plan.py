"""Plans: classes and settings of an on-policy algorithm of Stable-Baselines3, as plain values.

A plan names classes by path; `esper.recipes.sb3.known_classes` lists those that are looked up.
"""

from typing import Final

import msgspec

REBUILDER: Final = "stable-baselines3 on-policy"


class SpacePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Gymnasium space.

    Attributes:
        kind: name of the class.
        sizes: numbers of choices, for discrete spaces.
        shape: shape of a Box or a MultiBinary space.
        dtype: name of the elements' type.
        low: lower bounds: one for all elements, or one for each.
        high: upper bounds.
        parts: spaces of a Dict space, by name.
    """

    kind: str
    sizes: list[int] = []
    shape: list[int] = []
    dtype: str = ""
    low: list[float] = []
    high: list[float] = []
    parts: "dict[str, SpacePlan]" = {}


class PolicyPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of a policy's constructor; classes are given as paths."""

    net_arch: list[int] | dict[str, list[int]]
    activation_fn: str
    use_sde: bool
    log_std_init: float
    full_std: bool
    use_expln: bool
    squash_output: bool
    features_extractor_class: str
    features_extractor_kwargs: dict[str, int | bool]
    share_features_extractor: bool
    normalize_images: bool
    optimizer_class: str
    optimizer_kwargs: dict[str, bool | int | float | list[float] | None]
    lstm_hidden_size: int = 0
    n_lstm_layers: int = 0
    shared_lstm: bool = False
    enable_critic_lstm: bool = False
    lstm_kwargs: dict[str, bool | int | float] = {}


class OnPolicyPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An on-policy algorithm: its class, its spaces, its policy and its settings."""

    algorithm: str
    policy: str
    observation_space: SpacePlan
    action_space: SpacePlan
    arguments: PolicyPlan
    n_envs: int
    n_steps: int
    gamma: float
    gae_lambda: float
    ent_coef: float
    vf_coef: float
    max_grad_norm: float
    use_sde: bool
    sde_sample_freq: int
    learning_rate: float
    is_flat: bool  # whether the arrays of the rollout buffer are flattened, as `get` leaves them
    normalize_advantage: bool = True
    batch_size: int | None = None  # None: the whole rollout, as in A2C
    n_epochs: int = 1
    clip_range: float = 0.0
    clip_range_vf: float | None = None
    target_kl: float | None = None

    @property
    def minibatches_per_epoch(self) -> int:
        """Number of minibatches in an epoch."""
        samples = self.n_envs * self.n_steps
        return 1 if self.batch_size is None else -(-samples // self.batch_size)
