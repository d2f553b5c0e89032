"""Files that are replaced: the old content or the new one, whichever call fails."""

import contextlib
import errno
import os
from pathlib import Path

import pytest
from faults import Faults, injected

from esper.leyline.files.durable_files import replace_file, write_output


def test_the_new_content_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "file"
    for content in ([b"old"], [b"a ", b"new", b""]):
        replace_file(path, content)
        assert path.read_bytes() == b"".join(content)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("late", [False, True], ids=["at once", "after it was done"])
def test_if_any_call_fails_the_file_is_whole_and_no_partial_file_is_left(tmp_path, late):
    path = tmp_path / "file"
    for number in range(1, 100):
        path.write_bytes(b"old" * 100)
        faults = Faults(tmp_path, number, late=late, error=errno.ENOSPC)
        with injected(faults), contextlib.suppress(OSError):
            replace_file(path, [b"new" * 100])
        if not faults.failed:
            break
        assert path.read_bytes() in (b"old" * 100, b"new" * 100), faults.failed
        assert [each.name for each in tmp_path.iterdir()] == ["file"], faults.failed
    assert number > 4
    assert path.read_bytes() == b"new" * 100


def test_an_output_never_replaces_a_device_or_a_pipe(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to(file)
    write_output(link, "text \udcff")
    assert (file.read_text(), link.is_symlink()) == ("text \\udcff", True)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_output(pipe, "page")
    assert os.read(reading, 10) == b"page"
    os.close(reading)
    assert pipe.is_fifo()
    with pytest.raises(OSError, match="No space left"):
        write_output(Path("/dev/full"), "page")
    assert Path("/dev/full").is_char_device()
