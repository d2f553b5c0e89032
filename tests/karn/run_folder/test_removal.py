"""`esper prune` and `esper archive`: which runs are removed or kept, and behaviour when killed."""

import fcntl
import shutil
from argparse import Namespace

import pytest

from esper.cli import esper_parser
from esper.karn.reports.run_catalogue import list_runs
from esper.karn.store.run_directory import LOCK_NAME
from esper.karn.store.run_removal import REMOVING_NAME, removals_begun
from esper.karn.store.run_store import RunWriter, create_run


@pytest.fixture
def esper(sweep, capsys):
    """Return a function that runs a command on the folder: exit code, output, errors."""

    def run(*arguments):
        options: Namespace = esper_parser().parse_args([*arguments, "--run-dir", str(sweep)])
        code = options.verb(options)
        return code, *capsys.readouterr()

    return run


def names(folder):
    return {run.name for run in list_runs(folder)}


def test_without_yes_nothing_is_removed(sweep, esper):
    code, out, _ = esper("prune", "status:finished")

    assert code == 0
    assert "would remove 2 runs" in out
    assert "add --yes to remove" in out
    assert "kept: 3 runs, lit; --lit includes them" in out
    assert len(names(sweep)) == 6


def test_lit_runs_are_removed_only_with_the_option_lit(sweep, esper):
    code, out, _ = esper("prune", "status:finished", "--yes")
    assert (code, out.count("\nremoved ")) == (0, 2)
    assert names(sweep) == {"birch", "cedar", "douglas", "fir"}

    esper("prune", "lit:op", "--lit", "--yes")
    assert names(sweep) == {"cedar", "fir"}
    assert not (sweep / REMOVING_NAME).exists()


def test_a_live_run_is_kept(sweep, esper, payloads):
    live = create_run(sweep, "live", now=86_400.0 * 30)
    with RunWriter(live) as writer:
        writer.emit(payloads.start(name="live"), durable=True)
        code, out, _ = esper("prune", "name:live", "--lit", "--yes")

        assert (code, "kept: 1 run, not over" in out) == (0, True)
        assert "live" in names(sweep)


def test_a_locked_run_is_kept(sweep, esper):
    amber = next(sweep.glob("*amber"))
    with (amber / LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for arguments in (("prune", "amber"), ("archive", "amber")):
            code, _, err = esper(*arguments, "--yes")
            assert (code, "is being trained: it is kept" in err) == (1, True)
    assert "amber" in names(sweep)


def test_a_run_is_kept_if_a_light_came_on_after_the_listing(sweep, esper, payloads, monkeypatch):
    known = list_runs(sweep)
    with RunWriter(known[0].path) as writer:
        writer.emit(payloads.start(name="amber", resumed_from_update=3))
        writer.emit(payloads.broken_update(4, "op", "nan"))
        writer.emit(payloads.finish(update=4, episodes_done=8))
    monkeypatch.setattr("esper.karn.reports.run_catalogue.list_runs", lambda _: known)
    code, _, err = esper("prune", "amber", "--yes")

    assert (code, err) == (1, "19700101-000000-amber is kept: lit\n")
    assert known[0].path.is_dir()


def test_links_are_not_followed(sweep, esper, tmp_path):
    outside = tmp_path / "outside"
    shutil.copytree(next(sweep.glob("*amber")), outside)
    (sweep / "19700201-000000-linked").symlink_to(outside)
    inner = next(sweep.glob("*elm")) / "checkpoints" / "link"
    inner.symlink_to(outside)
    _, out, _ = esper("prune", "not:lit", "status:finished", "--yes")

    assert "kept: 1 run, a link" in out
    assert (outside / "run.sqlite").exists()
    assert "elm" not in names(sweep)
    assert (sweep / "19700201-000000-linked").is_symlink()


def test_removal_does_not_follow_a_link_in_place_of_its_folder(sweep, esper, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("kept")
    (sweep / REMOVING_NAME).symlink_to(elsewhere)
    with pytest.raises(ValueError, match="is a link"):
        esper("prune", "amber", "--yes")

    assert (elsewhere / "precious").exists()
    assert "amber" in names(sweep)


def test_an_interrupted_removal_is_finished_by_the_next_one(sweep, esper, monkeypatch):
    def killed(*_arguments, **_more):
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr("esper.karn.store.run_removal.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            esper("prune", "amber", "--yes")
    assert removals_begun(sweep) == ["19700101-000000-amber"]
    assert "amber" not in names(sweep)

    _, out, _ = esper("prune", "elm")
    assert "was interrupted while deleting 19700101-000000-amber; --yes finishes that first" in out
    assert removals_begun(sweep)
    esper("prune", "elm", "--yes")
    assert not removals_begun(sweep)
    assert names(sweep) == {"birch", "cedar", "douglas", "fir"}


def test_older_than_selects_old_runs(sweep, esper):
    (next(sweep.glob("*amber")) / "run.sqlite").touch()
    _, out, _ = esper("prune", "status:finished", "--older-than", "7")

    assert "would remove 1 run" in out
    assert "kept: 1 run, changed since" in out


def test_archived_runs_are_complete_in_another_folder(sweep, esper):
    _, out, _ = esper("archive", "lit:op")
    assert "would move 2 runs" in out
    code, out, _ = esper("archive", "lit:op", "--yes")

    assert (code, out.count("\nmoved ")) == (0, 2)
    assert names(sweep) == {"amber", "cedar", "elm", "fir"}
    assert [run.nan_heads for run in list_runs(sweep / "archive")] == [("op",), ("op",)]


def test_an_archive_never_replaces_a_run(sweep, esper, tmp_path):
    amber = next(sweep.glob("*amber"))
    shutil.copytree(amber, tmp_path / "there" / amber.name)
    code, _, err = esper("archive", "amber", "--to", str(tmp_path / "there"), "--yes")

    assert (code, "already holds" in err) == (1, True)
    assert amber.is_dir()
