"""Objects, tensors and parameters that cannot be checked hide no fault and do not stop training."""

from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from esper.watching.finding import explainer
from esper.watching.finding.repeating.put_back import everything_put_back
from esper.watching.watch import Watch


class RefusesAll:
    def __getattribute__(self, name):
        raise RuntimeError(name)


class RefusesAttributes:
    @property
    def __dict__(self):
        raise RuntimeError("attributes")


class RefusesItems(list):
    def __len__(self):
        raise RuntimeError("length")

    def __iter__(self):
        raise RuntimeError("items")


class RefusesFields(tuple):
    __slots__ = ()

    @property
    def _fields(self):
        raise RuntimeError("fields")


class RefusesCopies(list):
    def __copy__(self):
        raise RuntimeError("copy")


class RefusesLooks(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.isfinite:
            raise RuntimeError("isfinite")
        return super().__torch_function__(func, types, args, kwargs or {})


class WithUnmadePart(nn.Linear):
    """A layer with a part whose parameters have no values yet."""

    def __init__(self):
        super().__init__(4, 3)
        self.later = nn.Linear(2, 2, device="meta")


def train(model, *, held=None, optimizer=None, inputs=None, mode="report"):
    """Train four steps; the loss of the third is NaN. Return the watch."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    with Watch([model], [optimizer], on_nonfinite=mode) as watch:
        for step in range(4):
            thing = held
            batch = torch.randn(5, 4) if inputs is None else inputs
            loss = model(batch).square().mean()
            if step == 2:
                loss = loss * torch.nan
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert thing is held
    return watch


HELD = {
    "all": RefusesAll,
    "attributes": RefusesAttributes,
    "items": lambda: RefusesItems([1]),
    "fields": lambda: RefusesFields((1, 2)),
    "copies": lambda: RefusesCopies([1]),
    "looks": lambda: (torch.ones(3) * torch.nan).as_subclass(RefusesLooks),
    "no values": lambda: torch.empty(2, device="meta"),
    "several": lambda: [RefusesAll(), RefusesItems([1])],
}


@pytest.mark.parametrize("refused", HELD)
def test_a_variable_that_cannot_be_opened_hides_nothing(refused):
    watch = train(nn.Linear(4, 3), held=HELD[refused]())

    (trouble,) = watch.troubles
    assert watch.failures == 0, watch.last_failure
    assert [one.quantity for one in trouble.explanation.found] == ["loss"]
    assert trouble.explanation.origin is not None


@pytest.mark.parametrize("of_all", [True, False])
def test_a_parameter_without_values_hides_nothing(of_all):
    model = WithUnmadePart()
    own = model.parameters() if of_all else [model.weight, model.bias]

    watch = train(model, optimizer=torch.optim.SGD(own, lr=0.1), mode="skip")

    assert [one.quantity for one in watch.troubles[0].explanation.found] == ["loss"]
    assert (watch.failures, len(watch.troubles)) == (0, 1), watch.last_failure
    assert bool(model.weight.isfinite().all())


def test_sparse_gradients_are_checked():
    torch.manual_seed(0)
    model = nn.Embedding(10, 4, sparse=True)
    optimizer = torch.optim.SparseAdam(model.parameters())

    watch = train(model, optimizer=optimizer, inputs=torch.arange(5), mode="skip")

    (trouble,) = watch.troubles
    assert (watch.failures, trouble.minibatch) == (0, 3), watch.last_failure
    assert trouble.explanation.origin is not None
    assert bool(model.weight.isfinite().all())


@pytest.mark.parametrize("broken", ["causes_first", "counters_in", "named_tensors"])
def test_the_light_comes_on_even_if_the_explanation_fails(monkeypatch, broken):
    def fail(*_):
        raise ValueError("broken")

    monkeypatch.setattr(explainer, broken, fail)
    watch = train(nn.Linear(4, 3))

    is_needed = broken != "counters_in"
    assert bool(watch.failures) == is_needed
    first = watch.troubles[0]
    assert first.minibatch == 3
    assert first.explanation.found
    assert ("the watch failed" in first.explanation.why_no_origin) == is_needed


def test_all_other_state_is_restored_if_one_item_cannot_be():
    model, generator = nn.Linear(2, 2), torch.Generator().manual_seed(3)
    model.register_buffer("mean", torch.zeros(2))
    owner, state = SimpleNamespace(count=1), generator.get_state()
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(AttributeError))
        stack.enter_context(everything_put_back([model], [owner, generator]))
        model.weight.grad, owner.count = torch.ones(2, 2), 2
        model.eval()
        torch.rand(3, generator=generator)
        del model._buffers

    assert (model.weight.grad, owner.count, model.training) == (None, 1, True)
    assert torch.equal(generator.get_state(), state)


def test_a_figure_that_is_not_a_number_is_ignored_and_logged_once(caplog):
    with Watch([nn.Linear(4, 3)]) as watch:
        for _ in range(2):
            watch.log(loss=torch.ones(3), rate=0.5, word="abc")
        watch.update(loss=torch.tensor(2.0), odd=RefusesAll())

    assert watch.failures == 0
    texts = [record.getMessage() for record in caplog.records]
    assert [text.partition(":")[0] for text in texts] == [
        f"the figure {name!r} is ignored" for name in ("loss", "word", "odd")
    ]


class Masked(nn.Linear):
    """An output layer that forbids its second choice."""

    def forward(self, inputs):
        forbidden = torch.tensor([False, True, False])
        return super().forward(inputs).masked_fill(forbidden, -torch.inf)


def train_masked(model, *, fault=lambda step: None):
    """Act and train four steps with a masked policy, as one update; return the watch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Watch([model], [optimizer], {"a": 3}, finds_updates=False) as watch:
        for step in range(4):
            with torch.no_grad():
                model(torch.ones(2, 4))
            fault(step)
            loss = model(torch.ones(5, 4)).log_softmax(-1)[:, 0].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return watch


def test_a_layer_with_its_own_mask_is_not_a_fault():
    watch = train_masked(Masked(4, 3))

    assert (watch.troubles, watch.failures) == ([], 0), watch.last_failure


def test_a_fault_of_a_layer_with_its_own_mask_is_found():
    model = Masked(4, 3)

    def fault(step):
        if step == 2:
            model.weight.data[0, 0] = -torch.inf

    watch = train_masked(model, fault=fault)

    (trouble,) = watch.troubles
    assert trouble.minibatch == 3
    assert [(one.owner, one.part) for one in trouble.explanation.found] == [("a", "weight")]
