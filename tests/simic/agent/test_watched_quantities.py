"""The table of watched quantities: complete, in agreement with the causal filter, extensible."""

import pytest
import torch
from torch import Tensor

from esper.leyline.quantities import EXPLAINED_BY
from esper.leyline.telemetry import SHARED
from esper.simic.agent.detection import causal_filter, readers
from esper.simic.agent.detection.anatomy import Anatomy
from esper.simic.agent.detection.causal_filter import causes_in
from esper.simic.agent.detection.cause_search import Surroundings
from esper.simic.agent.detection.codes import KINDS, Codes
from esper.simic.agent.detection.readers import FORWARD, Axes, Reader

STEPS, HOSTS, HEADS = 3, 2, ("left", "right")
HEAD_OF_CHOICE = torch.tensor([0, 0, 1])
SHAPES = {
    Axes.SCALAR: (),
    Axes.STEPS: (STEPS, HOSTS),
    Axes.HEADS: (STEPS, HOSTS, len(HEADS)),
    Axes.CHOICES: (STEPS, HOSTS, len(HEAD_OF_CHOICE)),
    Axes.HOSTS: (2, HOSTS, 4),
}
#: Added by the tests: a tensor of the whole policy, as the joint log-ratio is.
ADDED = Reader(
    quantity="added", axes=Axes.STEPS, from_terms=lambda terms: terms.log_ratio
)  # fmt: skip


def codes_of(*broken: str) -> Codes:
    """Return codes of all quantities, NaN everywhere in those that are named."""
    found = {}
    for reader in (*FORWARD, ADDED):
        values = torch.zeros(SHAPES[reader.axes], dtype=torch.uint8)
        found[reader.code] = values + KINDS.index("nan") * (reader.quantity in broken)
    return found


def causes(codes: Codes, *, broke_before: bool = False) -> set[tuple[str, str]]:
    """Return head and quantity of the causes in a minibatch of a policy of two heads.

    Args:
        codes: codes of the minibatch.
        broke_before: whether acting and the trunk in the preparation broke, too.
    """
    no_parameters = torch.zeros(0, dtype=torch.int64)
    anatomy = Anatomy(HEADS, HEAD_OF_CHOICE, no_parameters, no_parameters, (), ())
    nowhere = torch.zeros(STEPS, HOSTS, dtype=torch.bool)
    around = Surroundings(
        hosts=torch.arange(HOSTS),
        active=torch.ones(STEPS, HOSTS, len(HEADS), dtype=torch.bool),
        parameters=no_parameters.to(torch.uint8),
        prepared_trunk=nowhere | broke_before,
        prepared_log_probs=torch.zeros(STEPS, HOSTS, len(HEADS), dtype=torch.bool),
        explained_advantages=nowhere | broke_before,
        saturating=no_parameters.bool(),
    )
    return {(found.head, found.quantity) for found in causes_in(codes, anatomy, around)[0]}


@pytest.mark.parametrize("quantity", dict.fromkeys(reader.quantity for reader in FORWARD))
def test_a_quantity_is_explained_by_those_that_the_table_names(quantity: str) -> None:
    reasons = set(EXPLAINED_BY[quantity])
    alone = {name for _, name in causes(codes_of(quantity))}
    assert alone == {quantity}
    found = {name for _, name in causes(codes_of(quantity, *reasons), broke_before=True)}
    # A recurrent state may be broken before the update: then nothing in it is an explanation.
    assert (quantity in found) == (not reasons or quantity == "recurrent_state")


@pytest.mark.parametrize("quantity", dict.fromkeys(reader.quantity for reader in FORWARD))
def test_no_other_quantity_explains_it(quantity: str) -> None:
    others = {reader.quantity for reader in FORWARD} - set(EXPLAINED_BY[quantity])
    assert quantity in {name for _, name in causes(codes_of(*others))}


def test_an_added_quantity_is_reported_and_explained_without_a_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(causal_filter, "FORWARD", (*FORWARD, ADDED))
    monkeypatch.setitem(EXPLAINED_BY, "added", ("trunk", "log_prob"))
    assert causes(codes_of("added")) == {(SHARED, "added")}
    assert causes(codes_of("added", "trunk")) == {(SHARED, "trunk")}
    by_head = causes(codes_of("added", "log_prob"))
    assert by_head == {("left", "log_prob"), ("right", "log_prob")}
    assert (SHARED, "added") in causes(codes_of("added", "entropy"))


def test_an_added_quantity_explains_those_that_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal_filter, "FORWARD", (*FORWARD, ADDED))
    monkeypatch.setitem(EXPLAINED_BY, "added", ())
    for name in ("joint_ratio", "gradient"):
        reasons = (*EXPLAINED_BY[name], "added")
        monkeypatch.setitem(EXPLAINED_BY, name, reasons)
    broken = codes_of("added", "joint_ratio")
    gradient: Tensor = torch.ones(STEPS, HOSTS, dtype=torch.uint8)
    broken |= {"log_ratio gradient": gradient, "gradient": torch.zeros(0, dtype=torch.uint8)}
    assert causes(broken) == {(SHARED, "added")}


def test_a_quantity_without_a_reader_is_refused_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "CAUSAL_ORDER", (*readers.CAUSAL_ORDER, "added"))
    with pytest.raises(ImportError, match=r"added: .*quantities\.py.*readers\.py"):
        readers.check_tables()
