"""Faults in user code around a layer."""

from collections.abc import Callable

from torch import Tensor

from natural_faults import user_code
from natural_faults.cause import Cause
from natural_faults.stage import BACKWARD, FORWARD, Line, Setup, Truth


def _user(
    code: Callable[[Tensor], Tensor],
    operations: tuple[str, ...],
    fragment: str,
    *words: str,
    layers: tuple[str, ...] = ("heads",),
    phases: tuple[str, ...] = FORWARD,
) -> Cause:
    def plant(setup: Setup) -> Truth:
        layer = setup.random.choice(layers)
        setup.add_user_code(layer, code)
        lines = (Line(user_code, fragment),)
        return Truth(operations, lines, f"policy.{layer}", phases, words)

    # Under autocast torch chooses the precision of each operation in user code.
    return Cause(f"user code: {code.__name__}", plant, precisions=("off",))


_U = user_code
ANY = ("heads", "feature_norm")  # tanh hides an infinity after the norm, but not a NaN
USER_CODE = (
    _user(_U.divided_by_temperature, ("div",), "return values / temperature", "other = 0"),
    _user(
        _U.divided_by_tensor_temperature, ("div",), "return values.div(temperature)", "other", "0"
    ),
    _user(_U.scaled_by_float, ("mul",), "return (values + 100) * 1e37", "other = 1e+37"),
    _user(_U.scaled_by_int, ("mul",), "return (values + 1e21) * 10**18", "other = 1e+18", "1e+21"),
    _user(
        _U.scaled_by_zero_dim_tensor, ("mul",), "return (values + 100) * scale", "other", "2e+38"
    ),
    _user(_U.scaled_in_place, ("mul",), "scaled.mul_(3e37)", "other = 3e+37"),
    _user(
        _U.added_with_float_alpha,
        ("add",),
        "return values.add(bonus, alpha=3e38)",
        "other",
        "300",
        "alpha = 3e+38",
    ),
    _user(
        _U.added_with_int_alpha,
        ("add",),
        "return values.add(bonus, alpha=10**18)",
        "other",
        "1e+21",
        "alpha = 1e+18",
    ),
    _user(
        _U.subtracted_with_alpha, ("sub",), "return values.sub(baseline", "other", "alpha = 1e+38"
    ),
    _user(_U.subtracted_from_number, ("rsub", "sub"), "return 3e38 - masked", "3e+38"),
    _user(_U.added_twice_the_lowest, ("add",), "return once + lowest", "self", "other", "3.4"),
    _user(_U.product_of_three, ("addcmul",), "return torch.addcmul(", "value = 1e+36"),
    _user(_U.quotient_added, ("addcdiv",), "return torch.addcdiv(", "tensor2", "1e-36"),
    _user(
        _U.interpolated_with_number,
        ("lerp",),
        "return torch.lerp(values, target, 1e37)",
        "weight = 1e+37",
    ),
    _user(
        _U.interpolated_with_tensor,
        ("lerp",),
        "return torch.lerp(values, target, weight)",
        "weight",
        "1e+37",
    ),
    _user(_U.lists_scaled, ("_foreach_mul", "mul"), "pair = torch._foreach_mul(", "1e+37"),
    _user(_U.lists_added, ("_foreach_add", "add"), "pair = torch._foreach_add(", "alpha = 3e+38"),
    _user(
        _U.lists_of_products,
        ("_foreach_addcmul", "addcmul"),
        "pair = torch._foreach_addcmul(",
        "value = 1e+36",
    ),
    _user(_U.lists_divided, ("_foreach_div", "div"), "pair = torch._foreach_div(", "0"),
    _user(_U.high_power, ("pow",), "return (values + 100).pow(40)", "exponent = 40"),
    _user(_U.high_power_of_number, ("pow",), "return 10.0 ** (values", "exponent", "self = 10"),
    _user(_U.negative_power_of_zero, ("pow", "reciprocal"), "return zeros**-1", "0"),
    _user(
        _U.fractional_power_of_negative,
        ("pow", "sqrt"),
        "return (values - 100) ** 0.5",
        "negative",
        layers=ANY,
    ),
    _user(_U.softplus_by_hand, ("exp",), "return (1 + (values + 200).exp()).log()", "argument"),
    _user(_U.log_of_softmax, ("log",), "return sharp.softmax(-1).log()", "log of 0"),
    _user(_U.log_of_negative, ("log",), "return (values - 100).log()", "log of", layers=ANY),
    _user(_U.log1p_of_minus_one, ("log1p",), "return (values * 0 - 1).log1p()", "log of", "-1"),
    _user(_U.root_of_negative, ("sqrt",), "return (values - 100).sqrt()", "negative", layers=ANY),
    _user(
        _U.inverse_root_of_zero, ("rsqrt",), "return zeros * zeros.square()", "1 / 0", layers=ANY
    ),
    _user(
        _U.standardised_constant,
        ("div",),
        "return (constant - 2) / constant.std(",
        "0 / 0",
        layers=ANY,
    ),
    _user(_U.unit_vector_of_zeros, ("div",), "return zeros / zeros.norm(", "0 / 0", layers=ANY),
    _user(_U.unit_vector_with_eps_of_zero, ("div",), "return normalize(", "0 / 0", layers=ANY),
    _user(_U.arc_cosine_above_one, ("acos",), "return cosine.acos()", "1.0001", layers=ANY),
    _user(_U.area_hyperbolic_tangent_of_one, ("atanh",), "return squashed.atanh()", "1"),
    _user(_U.reciprocal_of_zero, ("reciprocal",), "return (values * 0).reciprocal()", "0"),
    _user(_U.remainder_by_zero, ("fmod",), "return torch.fmod(", "other = 0", layers=ANY),
    _user(_U.running_sum, ("cumsum",), "return large.cumsum(-1)", "2e+37"),
    _user(_U.running_product, ("cumprod",), "return (values * 0 + 50.0).cumprod(-1)", "50"),
    _user(_U.sum_of_large, ("sum",), "return values + large.sum(", "2e+37"),
    _user(
        _U.product_of_matrices, ("mm", "bmm", "addmm"), "return (values + 100) @ mixing", "1e+38"
    ),
    _user(_U.batched_product_with_alpha, ("baddbmm",), "return torch.baddbmm(", "alpha = 1e+37"),
    _user(_U.constant_infinity, ("add",), "return values + math.inf", "other is +inf"),
    _user(
        _U.constant_nan_tensor,
        ("add", "lift_fresh", "lift_fresh_copy"),
        "return values + default",
        "constant",
        "nan",
        layers=ANY,
    ),
    _user(
        _U.filled_with_nan,
        ("masked_fill",),
        "return values.masked_fill(",
        "value is nan",
        layers=ANY,
    ),
    _user(
        _U.where_with_log,
        ("div",),
        "safe = torch.where(",
        "0 / 0",
        "derivative of Log",
        phases=BACKWARD,
    ),
    _user(
        _U.root_of_zero,
        ("div",),
        "return values + zeros.sqrt()",
        "derivative of Sqrt",
        phases=BACKWARD,
    ),
    _user(
        _U.power_of_zero,
        ("pow", "mul", "div", "sqrt"),
        "return values + zeros.pow(0.5)",
        "derivative of",
        phases=BACKWARD,
    ),
    _user(
        _U.arc_sine_of_one,
        ("rsqrt",),
        "return values + edge.asin()",
        "derivative of Asin",
        phases=BACKWARD,
    ),
    _user(
        _U.clamped_exponential,
        ("exp",),
        "return values + large.exp().clamp(",
        "argument",
        phases=(*FORWARD, *BACKWARD),
    ),
    _user(
        _U.squared_and_clamped_root,
        ("div",),
        "distance = difference.square()",
        "derivative of Sqrt",
        phases=BACKWARD,
    ),
)
