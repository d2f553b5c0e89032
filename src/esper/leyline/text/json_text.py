"""Standard JSON output: NaN and infinities, which JSON does not support, are strings."""

import json
import math
from typing import Any


def json_text(value: Any) -> str:
    """Return plain values as indented JSON.

    A NaN becomes "NaN", an infinity "Infinity" or "-Infinity": Python's `float` and JavaScript's
    `Number` read them back.

    Args:
        value: dictionaries, lists, tuples, strings, numbers, booleans and None; anything else
            becomes its text.
    """
    return json.dumps(_with_named_floats(value), indent=2, allow_nan=False, default=str)


def _with_named_floats(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {str(key): _with_named_floats(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_with_named_floats(one) for one in value]
    return value
