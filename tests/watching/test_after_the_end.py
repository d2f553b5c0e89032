"""A watch that is closed records nothing any more, and wrong options are one sentence."""

import argparse
import pathlib

import pytest
import torch
from torch import nn

import esper
from esper.leyline.errors import EsperError
from esper.watching.watch import Watch


@pytest.fixture
def model():
    return nn.Linear(4, 3)


def test_a_closed_watch_records_nothing(model):
    watch = Watch([model], [torch.optim.SGD(model.parameters(), lr=0.1)])
    watch.close()

    assert not watch.check("reward", [float("nan")])
    assert watch.check("reward", [1.0])
    watch.came_in("reward", "nan", environment=0, step=1)
    watch.hold(torch.tensor(float("nan")))
    with watch.updating():
        watch.update(reward=1.0)
    watch.close()

    assert (watch.troubles, watch.failures, watch.is_clean) == ([], 0, True)


@pytest.mark.parametrize("paused_before", [True, False])
def test_a_closed_watch_attaches_no_hooks(model, paused_before):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    backward = torch.autograd.backward
    watch = Watch([model], [optimizer], {"a": 3})
    if paused_before:
        watch.pause()
    watch.close()
    watch.pause()
    watch.resume()

    assert (len(model._forward_hooks), len(optimizer._optimizer_step_pre_hooks)) == (0, 0)
    assert torch.autograd.backward is backward


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"config": {"lr": 0.1, "weights": torch.ones(2)}}, r"config\['weights'\].*not a Tensor"),
        ({"config": {"loss": len}}, r"config\['loss'\] cannot be recorded: it must be a number"),
        (
            {"config": {"x": [pathlib.Path()]}},
            r"config\['x'\].*not a list with others in it",
        ),
        ({"config": argparse.Namespace(lr=0.1)}, r"not a Namespace: give vars\(config\)"),
        ({"config": 3}, "config must be a dictionary of settings, not an int$"),
        ({"optimizer": "sgd"}, "optimizer must be a torch.optim.Optimizer .* not a str"),
        ({"optimizer": torch.optim.SGD}, "not the class SGD"),
        ({"optimizer": [None]}, "not a NoneType"),
        ({"optimizer": 3}, "not an int"),
    ],
)
def test_a_wrong_option_is_one_sentence(model, tmp_path, options, words):
    with pytest.raises(EsperError, match=words) as raised:
        esper.watch(model, run_dir=tmp_path, **options)

    assert "\n" not in str(raised.value)
    assert not model._forward_hooks
    assert list(tmp_path.iterdir()) == []
