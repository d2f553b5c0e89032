"""Capsules: what goes in comes out, and nothing that is half there is taken for whole."""

from pathlib import Path

import pytest
import torch

from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.incidents import (
    Capsule,
    IncidentError,
    IncidentLedger,
    list_incidents,
    read_capsule,
    sighting_fields,
    write_capsule,
)


def sighting(head: str = "op", quantity: str = "logits", kind: str = "nan") -> NonfiniteSighting:
    return NonfiniteSighting(head=head, quantity=quantity, kind=kind, count=1, epoch=1, minibatch=1)


def capsule_of(*sightings: NonfiniteSighting) -> Capsule:
    return Capsule(
        update=37,
        config={"episodes": 3, "inject": ("op:inf@1",)},
        agent={"policy": {"heads.bias": torch.tensor([torch.nan, -torch.inf, 1.0])}},
        rollout={"rewards": torch.ones(2, 3), "initial_state": (torch.zeros(1), torch.ones(1))},
        minibatches=[torch.tensor([1, 0])],
        minibatches_per_epoch=1,
        old_log_probs=torch.tensor([[[-0.5, -torch.inf]]]),
        injections=["op.logits:inf@37"],
        sightings=sighting_fields(sightings),
        versions={"torch": "2"},
        threads=1,
        device="cpu",
        torch_generator=torch.get_rng_state(),
    )


def test_a_capsule_comes_back_as_it_went_in(tmp_path: Path) -> None:
    folder = write_capsule(tmp_path / "incidents", 3, capsule_of(sighting()))
    assert folder.name == "0003"
    capsule = read_capsule(folder)
    bias = capsule.agent["policy"]["heads.bias"]
    assert bias.isnan().tolist() == [True, False, False]
    assert bias[1].item() == float("-inf")
    assert capsule.old_log_probs.tolist() == [[[-0.5, float("-inf")]]]
    assert capsule.torch_generator.equal(torch.get_rng_state())
    assert capsule.config["inject"] == ("op:inf@1",)
    (incident,) = list_incidents(tmp_path)
    assert (incident.number, incident.update, incident.sightings) == (3, 37, (sighting(),))
    assert incident.size == sum(path.stat().st_size for path in folder.iterdir())


def test_a_write_that_failed_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_capsule(tmp_path / "incidents", 1, capsule_of())
    assert list((tmp_path / "incidents").iterdir()) == []
    assert list_incidents(tmp_path) == []


def test_a_damaged_one_is_named(tmp_path: Path) -> None:
    folder = write_capsule(tmp_path / "incidents", 1, capsule_of())
    data = (folder / "capsule.pt").read_bytes()
    (folder / "capsule.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(IncidentError, match="cannot be read"):
        read_capsule(folder)
    (folder / "incident.json").write_text("{")
    with pytest.raises(IncidentError, match="0001 cannot be read"):
        list_incidents(tmp_path)


def test_the_ledger_of_a_resumed_run_knows_what_is_kept(tmp_path: Path) -> None:
    first = IncidentLedger(tmp_path, limit=0, limit_bytes=10**9)
    assert first.record(capsule_of(sighting()), [sighting()]).path == "incidents/0001"
    second = IncidentLedger(tmp_path, limit=0, limit_bytes=10**9)
    assert second.record(capsule_of(sighting()), [sighting()]).path == ""
    new = sighting("slot", "ratio", "+inf")
    assert second.record(capsule_of(new), [new]).path == "incidents/0003"


def test_the_disk_that_capsules_take_is_limited(tmp_path: Path) -> None:
    ledger = IncidentLedger(tmp_path, limit=100, limit_bytes=1)
    assert ledger.record(capsule_of(sighting()), [sighting()]).path
    refused = ledger.record(capsule_of(sighting()), [sighting()])
    assert refused.path == ""
    assert "--incident-megabytes" in refused.reason
