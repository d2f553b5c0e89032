"""Latches in checkpoints: a light is lit when nothing else knows of it, and is written again."""

import io
import json

import pytest
from rich.console import Console

from esper.commands.folder.runs import print_runs
from esper.commands.health import print_health
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_files.latch_file import LATCHES_NAME, read_latch_file
from esper.karn.store.run_files.side_files import SideFiles
from esper.karn.store.run_store import RunReader, RunWriter
from esper.leyline.files.checkpoint_file import FORMAT, CheckpointSummary, checkpoint_path, sealed


def keep(run, update, *latches):
    """Write a checkpoint as training does."""
    summary = CheckpointSummary(
        format=FORMAT, update=update, episodes_done=2 * update, latches=list(latches)
    )
    path = checkpoint_path(run / "checkpoints", update)
    path.write_bytes(b"".join(sealed(b"state", summary)))
    return path


@pytest.fixture
def kept(run, payloads):
    """A finished run of two updates whose light only a checkpoint knows of."""
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.broken_update(1, "op", "+inf"))
        writer.emit(payloads.update(2))
        writer.emit(payloads.finish(update=2))
        keep(run, 2, *writer.latches())
    (run / LATCHES_NAME).unlink()
    return run


def test_a_light_that_only_a_checkpoint_recorded_is_lit_everywhere(kept):
    (kept / "run.sqlite").unlink()
    assert RunFollower(kept).catch_up().snapshot.tamiyo.head_inf_latch["op"]
    console = Console(file=io.StringIO(), width=200)
    assert print_health(kept.parent, str(kept), as_json=True, console=console) == 1
    report = json.loads(console.file.getvalue())
    assert report["head_inf_latch"]["op"] is True
    assert report["head_nan_latch"]["op"] is None
    console = Console(file=io.StringIO(), width=200)
    print_runs(kept.parent, console=console)
    assert "op" in console.file.getvalue()


def test_a_resume_gives_such_a_light_its_other_homes_back(kept, payloads):
    (kept / "run.sqlite").unlink()
    with RunWriter(kept) as writer:
        assert [(update, seen.head) for update, seen in writer.latches()] == [(1, "op")]
        writer.emit(payloads.start(resumed_from_update=2), durable=True)
        writer.emit(payloads.finish(update=2))
    for path in (kept / "checkpoints").iterdir():
        path.unlink()
    assert RunReader(kept).lights() == {("op", "+inf")}
    assert [seen.head for _, seen in read_latch_file(kept).sightings] == ["op"]


def test_a_damaged_checkpoint_puts_no_light_out_and_counts_by_its_name(kept, payloads):
    keep(kept, 1, (1, payloads.sighting(head="slot")))
    path = keep(kept, 2, (2, payloads.sighting(head="tempo")))
    files = SideFiles(kept)
    assert [seen.head for _, seen in files.records().sightings] == ["slot", "tempo"]
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    found = SideFiles(kept).records()
    assert ([seen.head for _, seen in found.sightings], found.newest_update) == (["slot"], 2)


def test_only_checkpoints_that_changed_are_read_again(kept, payloads, monkeypatch):
    read = []
    from esper.karn.store.run_files import side_files as module

    real = module.read_summary
    monkeypatch.setattr(module, "read_summary", lambda path: (read.append(path), real(path))[1])
    files = SideFiles(kept)
    files.records()
    newest = keep(kept, 3, (3, payloads.sighting(head="tempo")))
    assert len(files.records().sightings) == 2
    assert read == [checkpoint_path(kept / "checkpoints", 2), newest]
