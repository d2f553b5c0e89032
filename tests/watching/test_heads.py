"""Heads from Gymnasium spaces, widths and modules, and the layer that computes them."""

import numpy as np
import pytest
from gymnasium import spaces
from torch import nn

from esper.watching.heads import HeadsError, find_output_layer, heads_of, output_width


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Discrete(4), [("action", "categorical", range(4))]),
        (
            spaces.MultiDiscrete([2, 3]),
            [
                ("action[0]", "categorical", range(2)),
                ("action[1]", "categorical", range(2, 5)),
            ],
        ),
        (
            spaces.MultiBinary(2),
            [("action[0]", "binary", range(1)), ("action[1]", "binary", range(1, 2))],
        ),
        (
            spaces.Box(-1, 1, (2,), np.float32),
            [("action[0]", "gaussian", range(1)), ("action[1]", "gaussian", range(1, 2))],
        ),
        (spaces.Box(-1, 1, (1,), np.float32), [("action", "gaussian", range(1))]),
        (
            spaces.Dict({"move": spaces.Discrete(3), "aim": spaces.Box(-1, 1, (1,), np.float32)}),
            [("aim", "gaussian", range(1)), ("move", "categorical", range(1, 4))],
        ),
        (
            spaces.Tuple((spaces.Discrete(2), spaces.MultiDiscrete([2, 2]))),
            [
                ("action[0]", "categorical", range(2)),
                ("action[1][0]", "categorical", range(2, 4)),
                ("action[1][1]", "categorical", range(4, 6)),
            ],
        ),
        ({"steer": 3, "brake": 2}, [
            ("steer", "categorical", range(3)),
            ("brake", "categorical", range(3, 5)),
        ]),
    ],
)  # fmt: skip
def test_heads_of_spaces_and_widths(space, expected):
    assert [(head.name, head.kind, head.columns) for head in heads_of(space)] == expected


def test_modules_are_heads_without_columns():
    layer = nn.Linear(2, 2)

    (head,) = heads_of({"value": layer})

    assert (head.module, head.columns) == (layer, None)
    assert output_width([head]) == 0


@pytest.mark.parametrize("heads", [{"a": 0}, {"a": True}, {"a": "3"}, 7, "action"])
def test_other_descriptions_are_refused(heads):
    with pytest.raises(HeadsError, match="must be"):
        heads_of(heads)


def test_the_output_layer_is_the_last_with_as_many_outputs():
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 1))

    assert find_output_layer(model, 5) is model[1]
    assert find_output_layer(model, 2) is None


def test_a_layer_with_the_name_of_an_actor_is_preferred():
    model = nn.ModuleDict({"action_net": nn.Linear(4, 2), "value_net": nn.Linear(4, 2)})

    assert find_output_layer(model, 2) is model["action_net"]
