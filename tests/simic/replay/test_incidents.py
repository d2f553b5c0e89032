"""Capsules: what goes in comes out, and nothing that is half there is taken for whole."""

import contextlib
import errno
import shutil
from pathlib import Path

import pytest
import torch
from faults import Faults, injected
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.replay.incidents import (
    Capsule,
    IncidentError,
    IncidentLedger,
    find_incident,
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


def test_a_capsule_round_trip(tmp_path: Path) -> None:
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


def test_a_write_that_failed_leaves_nothing_behind(tmp_path: Path) -> None:
    for number in range(1, 50):
        faults = Faults(tmp_path, number, error=errno.ENOSPC)
        with injected(faults), contextlib.suppress(OSError):
            write_capsule(tmp_path / "incidents", number, capsule_of(sighting()))
        assert all(not one.damage for one in list_incidents(tmp_path)), faults.failed
        assert not list(tmp_path.rglob("*.partial")), faults.failed
        if not faults.failed:
            break
    assert number > 5


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / "incidents" / "0007.partial").mkdir(parents=True)
    assert IncidentLedger(tmp_path, limit=0, limit_bytes=10**9).number == 0
    assert list((tmp_path / "incidents").iterdir()) == []


def test_a_damaged_capsule_is_named_and_others_are_read(tmp_path: Path) -> None:
    first = write_capsule(tmp_path / "incidents", 1, capsule_of(sighting()))
    write_capsule(tmp_path / "incidents", 2, capsule_of(sighting()))
    (first / "incident.json").write_text("{")
    with pytest.raises(IncidentError, match="0001 cannot be read"):
        find_incident(tmp_path, 1)
    with pytest.raises(IncidentError, match=r"incident\.json cannot be read"):
        read_capsule(first)
    assert find_incident(tmp_path, 2).update == 37
    assert find_incident(tmp_path, update=37).number == 2
    assert IncidentLedger(tmp_path, limit=0, limit_bytes=10**9).number == 2
    (first / "capsule.pt").unlink()
    assert list_incidents(tmp_path)[0].damage.endswith("capsule.pt is missing")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_any_damage_to_a_capsule_is_one_sentence(
    tmp_path: Path, place: float, byte: int, cut: bool
) -> None:
    folder = write_capsule(tmp_path / f"{place}-{byte}-{cut}", 1, capsule_of(sighting()))
    data = bytearray((folder / "capsule.pt").read_bytes())
    at = int(place * len(data))
    damaged = data[:at] if cut else data[:at] + bytes([byte]) + data[at + 1 :]
    (folder / "capsule.pt").write_bytes(damaged)
    try:
        if damaged == data:
            assert read_capsule(folder).update == 37
        else:
            with pytest.raises(IncidentError, match="digest does not match"):
                read_capsule(folder)
    finally:
        shutil.rmtree(folder.parent)


def test_the_first_of_a_kind_that_was_not_written_is_kept_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    ledger = IncidentLedger(tmp_path, limit=0, limit_bytes=10**9)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        assert "No space left" in ledger.record(capsule_of(sighting()), [sighting()]).reason
    assert ledger.record(capsule_of(sighting()), [sighting()]).path == "incidents/0002"
    assert ledger.record(capsule_of(sighting()), [sighting()]).path == ""


def test_the_number_of_capsules_is_limited_over_resumes(tmp_path: Path) -> None:
    for _ in range(3):
        ledger = IncidentLedger(tmp_path, limit=1, limit_bytes=10**9)
        for _ in range(2):
            ledger.record(capsule_of(sighting()), [sighting()])
    assert [incident.number for incident in list_incidents(tmp_path)] == [1, 2]


def test_the_ledger_of_a_resumed_run_counts_kept_capsules(tmp_path: Path) -> None:
    first = IncidentLedger(tmp_path, limit=0, limit_bytes=10**9)
    assert first.record(capsule_of(sighting()), [sighting()]).path == "incidents/0001"
    second = IncidentLedger(tmp_path, limit=0, limit_bytes=10**9)
    assert second.record(capsule_of(sighting()), [sighting()]).path == ""
    new = sighting("slot", "ratio", "+inf")
    assert second.record(capsule_of(new), [new]).path == "incidents/0003"


def test_the_size_of_capsules_is_limited(tmp_path: Path) -> None:
    ledger = IncidentLedger(tmp_path, limit=100, limit_bytes=1)
    assert ledger.record(capsule_of(sighting()), [sighting()]).path
    refused = ledger.record(capsule_of(sighting()), [sighting()])
    assert refused.path == ""
    assert "--incident-megabytes" in refused.reason
