"""Code as users write it around a policy, which breaks in ways that users know.

Each function takes the output of a layer and returns what takes its place. The truth about each is
in `user_causes.py`.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize


def divided_by_temperature(values: Tensor) -> Tensor:
    """A temperature that an annealing schedule brought to 0."""
    temperature = 0.0
    return values / temperature


def divided_by_tensor_temperature(values: Tensor) -> Tensor:
    """The same, with the temperature as a tensor."""
    temperature = values.new_zeros(())
    return values.div(temperature)


def scaled_by_float(values: Tensor) -> Tensor:
    """A scale that is far too large, a float."""
    return (values + 100) * 1e37


def scaled_by_int(values: Tensor) -> Tensor:
    """A scale that is far too large, an int."""
    return (values + 1e21) * 10**18


def scaled_by_zero_dim_tensor(values: Tensor) -> Tensor:
    """A scale that is far too large, a tensor of no dimension."""
    scale = torch.tensor(2e38)
    return (values + 100) * scale


def scaled_in_place(values: Tensor) -> Tensor:
    """The same in place."""
    scaled = values + 100
    scaled.mul_(3e37)
    return scaled


def added_with_float_alpha(values: Tensor) -> Tensor:
    """An addition whose `alpha` is far too large."""
    bonus = torch.full_like(values, 300.0)
    return values.add(bonus, alpha=3e38)


def added_with_int_alpha(values: Tensor) -> Tensor:
    """The same with an integer."""
    bonus = torch.full_like(values, 1e21)
    return values.add(bonus, alpha=10**18)


def subtracted_with_alpha(values: Tensor) -> Tensor:
    """A subtraction whose `alpha` is far too large."""
    baseline = torch.full_like(values, 50.0)
    return values.sub(baseline, alpha=1e38)


def subtracted_from_number(values: Tensor) -> Tensor:
    """A number minus a tensor of the same size and the other sign."""
    masked = torch.full_like(values, -3e38) + values
    return 3e38 - masked


def added_twice_the_lowest(values: Tensor) -> Tensor:
    """Two additive masks, each the lowest number of float32."""
    lowest = torch.full_like(values, torch.finfo(torch.float32).min)
    once = values * 0 + lowest
    return once + lowest


def product_of_three(values: Tensor) -> Tensor:
    """A scaled product added on."""
    return torch.addcmul(values, values + 100, values + 100, value=1e36)


def quotient_added(values: Tensor) -> Tensor:
    """A quotient whose divisor is tiny, added on."""
    spread = torch.full_like(values, 1e-36)
    return torch.addcdiv(values, values + 100, spread, value=20.0)


def interpolated_with_number(values: Tensor) -> Tensor:
    """An interpolation whose weight is a number that is far too large."""
    target = values + 100
    return torch.lerp(values, target, 1e37)


def interpolated_with_tensor(values: Tensor) -> Tensor:
    """The same with a tensor."""
    target, weight = values + 100, torch.full_like(values, 1e37)
    return torch.lerp(values, target, weight)


def lists_scaled(values: Tensor) -> Tensor:
    """A list of tensors scaled at once, the second too far."""
    pair = torch._foreach_mul([values + 1, values + 100], [1.0, 1e37])
    return pair[0] * 0 + pair[1]


def lists_added(values: Tensor) -> Tensor:
    """A list of tensors added at once with an `alpha` that is far too large."""
    pair = torch._foreach_add([values], [torch.full_like(values, 300.0)], alpha=3e38)
    return pair[0]


def lists_of_products(values: Tensor) -> Tensor:
    """A list of scaled products added on at once."""
    pair = torch._foreach_addcmul([values], [values + 100], [values + 100], value=1e36)
    return pair[0]


def lists_divided(values: Tensor) -> Tensor:
    """A list of tensors divided by 0 at once."""
    pair = torch._foreach_div([values + 100], 0.0)
    return pair[0]


def high_power(values: Tensor) -> Tensor:
    """A power whose exponent is far too large."""
    return (values + 100).pow(40)


def high_power_of_number(values: Tensor) -> Tensor:
    """A number to a power that is far too large."""
    return 10.0 ** (values + 100)


def negative_power_of_zero(values: Tensor) -> Tensor:
    """One over 0, as a power."""
    zeros = values * 0
    return zeros**-1


def fractional_power_of_negative(values: Tensor) -> Tensor:
    """A root of a negative number, as a power."""
    return (values - 100) ** 0.5


def softplus_by_hand(values: Tensor) -> Tensor:
    """The logarithm of 1 + exp x, written out."""
    return (1 + (values + 200).exp()).log()


def log_of_softmax(values: Tensor) -> Tensor:
    """The logarithm of a softmax that rounds to 0."""
    sharp = torch.arange(values.shape[-1]) * 300.0 + values
    return sharp.softmax(-1).log()


def log_of_negative(values: Tensor) -> Tensor:
    """The logarithm of a number below 0."""
    return (values - 100).log()


def log1p_of_minus_one(values: Tensor) -> Tensor:
    """The logarithm of 1 + x with x = -1."""
    return (values * 0 - 1).log1p()


def root_of_negative(values: Tensor) -> Tensor:
    """The root of a number below 0."""
    return (values - 100).sqrt()


def inverse_root_of_zero(values: Tensor) -> Tensor:
    """A root-mean-square norm without eps, over zeros."""
    zeros = values * 0
    return zeros * zeros.square().mean(-1, keepdim=True).rsqrt()


def standardised_constant(values: Tensor) -> Tensor:
    """A value minus its mean over its deviation, of what does not vary."""
    constant = values * 0 + 2
    return (constant - 2) / constant.std(-1, correction=0, keepdim=True)


def unit_vector_of_zeros(values: Tensor) -> Tensor:
    """A vector over its norm, which is 0."""
    zeros = values * 0
    return zeros / zeros.norm(dim=-1, keepdim=True)


def unit_vector_with_eps_of_zero(values: Tensor) -> Tensor:
    """`normalize` whose eps, meant to prevent this, is 0."""
    return normalize(values * 0, dim=-1, eps=0.0)


def arc_cosine_above_one(values: Tensor) -> Tensor:
    """A cosine that rounding brought above 1."""
    cosine = values * 0 + 1.0001
    return cosine.acos()


def area_hyperbolic_tangent_of_one(values: Tensor) -> Tensor:
    """A squashed action taken back, at the edge of its range."""
    squashed = (values * 0 + 30).tanh()
    return squashed.atanh()


def reciprocal_of_zero(values: Tensor) -> Tensor:
    """One over 0."""
    return (values * 0).reciprocal()


def remainder_by_zero(values: Tensor) -> Tensor:
    """A remainder of a division by 0."""
    return torch.fmod(values, 0.0)


def running_sum(values: Tensor) -> Tensor:
    """A running sum of large numbers."""
    large = values * 0 + 2e37
    return large.cumsum(-1)


def running_product(values: Tensor) -> Tensor:
    """A product over many numbers above 1."""
    return (values * 0 + 50.0).cumprod(-1)


def sum_of_large(values: Tensor) -> Tensor:
    """A sum of large numbers."""
    large = values * 0 + 2e37
    return values + large.sum(-1, keepdim=True)


def product_of_matrices(values: Tensor) -> Tensor:
    """A learned mixing matrix that has blown up."""
    mixing = torch.full((values.shape[-1], values.shape[-1]), 1e38)
    return (values + 100) @ mixing


def batched_product_with_alpha(values: Tensor) -> Tensor:
    """A batched product whose `alpha` is far too large."""
    mixing = torch.ones(values.shape[0], values.shape[-1], values.shape[-1])
    return torch.baddbmm(values, values + 100, mixing, alpha=1e37)


def constant_infinity(values: Tensor) -> Tensor:
    """An infinite number in the program."""
    return values + math.inf


def constant_nan_tensor(values: Tensor) -> Tensor:
    """A tensor in the program that is NaN."""
    default = torch.tensor(math.nan)
    return values + default


def filled_with_nan(values: Tensor) -> Tensor:
    """A NaN that marks what is missing, never replaced."""
    missing = torch.zeros_like(values, dtype=torch.bool)
    missing[..., 0] = True
    return values.masked_fill(missing, math.nan)


def where_with_log(values: Tensor) -> Tensor:
    """`where` around a logarithm of 0: finite forward, 0 / 0 in the derivative."""
    zeros = values * 0
    safe = torch.where(zeros > 0, zeros.log(), zeros)
    return values + safe


def root_of_zero(values: Tensor) -> Tensor:
    """A root of 0: finite forward, 1 / 0 in the derivative."""
    zeros = values * 0
    return values + zeros.sqrt()


def power_of_zero(values: Tensor) -> Tensor:
    """A fractional power of 0: finite forward, infinite in the derivative."""
    zeros = values * 0
    return values + zeros.pow(0.5)


def arc_sine_of_one(values: Tensor) -> Tensor:
    """An arc sine at the edge of its range: finite forward, infinite in the derivative."""
    edge = values * 0 + 1
    return values + edge.asin()


def clamped_exponential(values: Tensor) -> Tensor:
    """An exponential that is clamped after it overflowed: 0 * inf in the derivative."""
    large = values * 0 + 100
    return values + large.exp().clamp(max=10.0)


def squared_and_clamped_root(values: Tensor) -> Tensor:
    """The distance between two equal points, by hand: infinite in the derivative."""
    difference = values - values.detach()
    distance = difference.square().sum(-1, keepdim=True).sqrt()
    return values + distance
