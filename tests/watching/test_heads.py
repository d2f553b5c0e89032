"""Heads from Gymnasium spaces, widths and modules, and the layer that computes them."""

import numpy as np
import pytest
from gymnasium import spaces
from torch import nn

import esper
from esper.leyline.errors import EsperError
from esper.watching.model.heads import HeadsError, find_output_layer, heads_of, output_width
from esper.watching.watch import Watch


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


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(4, 64)
        self.actor = nn.Linear(64, 9)
        self.critic = nn.Linear(64, 1)


FOREIGN = "not part of the watched model"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda _: {"heads": {"a": 3, "b": 4}}, r"7 outputs \(a 3, b 4\).*have 64, 9, 1"),
        (
            lambda policy: {"heads": {"a": 3, "b": 4}, "output_layer": policy.actor},
            "7 outputs .*the output layer has 9",
        ),
        (
            lambda policy: {"heads": spaces.Discrete(12), "output_layer": policy.actor},
            "has 9 outputs, and the heads need 12",
        ),
        (lambda _: {"heads": {"a": 9}, "output_layer": nn.Linear(64, 9)}, FOREIGN),
        (lambda _: {"heads": {"value": nn.Linear(64, 1)}}, rf"heads\['value'\].*{FOREIGN}"),
        (lambda _: {"groups": {"critic": nn.Linear(64, 1)}}, rf"groups\['critic'\].*{FOREIGN}"),
        (lambda _: {"groups": {"critic": 3}}, "must be a regular expression or a module"),
        (lambda _: {"groups": {"critic": "criticc"}}, "matches no parameter"),
        (
            lambda policy: {"groups": {"all": "", "critic": policy.critic}},
            r"'critic' has no parameter left: critic\.\w+ belongs to group 'all'",
        ),
        (
            lambda policy: {"groups": {"value": policy.critic, "critic": "critic"}},
            r"'critic' has no parameter left: critic\.\w+ belongs to group 'value'",
        ),
        (lambda _: {"groups": ["critic"]}, "must be a dictionary"),
        (lambda _: {"groups": {"shared": "critic"}}, "cannot have the name 'shared'"),
        (lambda _: {"groups": {"": "critic"}}, "cannot have the name ''"),
        (
            lambda policy: {"heads": {"actor": policy.actor}, "groups": {"actor": "actor"}},
            "'actor' is the name of a head, too",
        ),
    ],
)
def test_what_cannot_fit_the_model_is_refused_at_once(options, message, tmp_path):
    policy = Policy()

    with pytest.raises(EsperError, match=message):
        esper.watch(policy, run_dir=tmp_path, **options(policy))

    assert not list(tmp_path.iterdir())
    assert not policy.actor._forward_hooks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda _: {"heads": spaces.Discrete(7)}, "7 outputs (action 7), and the layers of the"),
        (
            lambda policy: {"heads": spaces.Box(-1, 1, (3,)), "output_layer": policy.actor},
            "the output layer has 9: only its first 3 belong to heads",
        ),
    ],
)
def test_what_probably_does_not_fit_is_one_line(options, message, tmp_path, caplog):
    policy = Policy()

    esper.watch(policy, run_dir=tmp_path, **options(policy)).close()

    (line,) = caplog.messages
    assert message in line


def test_a_module_that_shares_its_parameters_is_part_of_the_model(caplog):
    policy = Policy()
    view = nn.Linear(64, 1)
    view.weight, view.bias = policy.critic.weight, policy.critic.bias

    with Watch([policy], heads={"value": view}) as watch:
        owners = {part.name: part.owner for part in watch.parts}

    assert owners["critic.weight"] == "value"
    assert caplog.messages == []


@pytest.mark.parametrize("is_module", [True, False])
def test_a_parameter_of_several_groups_belongs_to_the_first(is_module):
    policy = Policy()
    critic = policy.critic if is_module else "critic"

    with Watch([policy], groups={"value": critic, "rest": ""}) as watch:
        owners = {part.name.partition(".")[0]: part.owner for part in watch.parts}

    assert owners.pop("critic") == "value"
    assert set(owners.values()) == {"rest"}
