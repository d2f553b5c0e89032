"""The form of a checkpoint file: read without torch, and no altered one is taken for whole."""

import pytest

from esper.leyline.files.checkpoint_file import (
    FORMAT,
    CheckpointError,
    CheckpointSummary,
    checkpoint_path,
    checkpoints_in,
    newest_whole,
    parse_checkpoint,
    read_checkpoint,
    read_summary,
    sealed,
)


@pytest.fixture
def summary(payloads):
    """The summary of a checkpoint of update 4."""
    latches = [(2, payloads.sighting()), (3, payloads.sighting(head="slot", kind="nan", host=1))]
    return CheckpointSummary(
        format=FORMAT, update=4, episodes_done=8, settings={"envs": 2}, latches=latches
    )


@pytest.fixture
def path(tmp_path, summary):
    """A checkpoint of update 4."""
    path = checkpoint_path(tmp_path, 4)
    path.write_bytes(b"".join(sealed(b"what torch wrote", summary)))
    return path


def test_state_and_summary_come_back(path, summary):
    state, read = read_checkpoint(path)
    assert (bytes(state), read) == (b"what torch wrote", summary)
    assert read_summary(path) == summary


def test_no_flipped_bit_is_accepted(path, summary):
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CheckpointError, match=r"update-000004\.pt is damaged"):
            parse_checkpoint(bytes(data), path)
        if bit % 64:
            continue
        path.write_bytes(data)
        try:
            assert read_summary(path) == summary, bit  # the state is not its business
        except CheckpointError:
            assert bit // 8 >= len("what torch wrote"), bit


def test_none_that_was_cut_or_grew_is_accepted(path):
    whole = path.read_bytes()
    for data in (*(whole[:size] for size in range(len(whole))), whole + b"x", b"x" + whole):
        with pytest.raises(CheckpointError):
            parse_checkpoint(data, path)


def test_the_newest_whole_one_is_found_and_the_others_are_named(path, tmp_path, summary):
    path.rename(checkpoint_path(tmp_path, 3))  # it is of update 4
    checkpoint_path(tmp_path, 9).write_bytes(b"")
    path.write_bytes(b"".join(sealed(b"", summary)))
    (tmp_path / "update-x.pt").touch()
    assert [update for update, _ in checkpoints_in(tmp_path)] == [3, 4, 9]
    found = newest_whole(tmp_path)
    assert (found.path, found.summary) == (path, summary)
    (sentence,) = found.passed_over
    assert "update-000009.pt is damaged" in sentence
    path.unlink()
    found = newest_whole(tmp_path)
    assert found.path is None
    assert "holds update 4: it was renamed" in found.passed_over[1]
    assert newest_whole(tmp_path / "absent") == (None, None, [])


def test_another_format_is_named(path, tmp_path):
    other = CheckpointSummary(format=99, update=4, episodes_done=8)
    path.write_bytes(b"".join(sealed(b"", other)))
    with pytest.raises(CheckpointError, match="is of format 99, and this version reads 3"):
        read_checkpoint(path)
