import re
from xml.etree import ElementTree

import pytest
import record_sanctum

from esper.karn.store.run_store import RunWriter, create_run

SVG = "{http://www.w3.org/2000/svg}"
UPDATES = 3
LIGHT = 2


@pytest.fixture
def write_run(tmp_path, payloads):
    """Writes a run of some updates, in the second of which `op` went Inf."""

    def write(updates):
        run = create_run(tmp_path / "runs", "recorded")
        with RunWriter(run) as writer:
            writer.emit(payloads.start())
            for update in range(1, updates + 1):
                writer.emit(payloads.step(update=update))
                writer.emit(payloads.episodes(update))
                is_bad = update == LIGHT
                writer.emit(
                    payloads.broken_update(update, "op", "+inf")
                    if is_bad
                    else payloads.update(update)
                )
            writer.emit(payloads.finish(update=updates))
        return run

    return write


@pytest.fixture
def recording(write_run, tmp_path):
    """The recording of a run of three updates, as text."""
    path = tmp_path / "recording.svg"
    record_sanctum.main([str(write_run(UPDATES)), str(path)])
    return path.read_text(encoding="utf-8")


def test_a_recording_is_one_whole_picture_that_asks_for_nothing(recording):
    root = ElementTree.fromstring(recording)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    references = [use.get("href") for use in root.iter(f"{SVG}use")]
    references += re.findall(r"url\(([^)]*)\)", recording)
    assert {reference.removeprefix("#") for reference in references} <= set(ids)
    assert all(reference.startswith("#") for reference in references)
    for outside in ("<script", "@import", "@font-face", "<image", "foreignObject"):
        assert outside not in recording
    assert recording.count("http") == 1  # the name of SVG itself
    texts = [text for text in root.iter(f"{SVG}text") if text.get("class") != "title"]
    assert all(text.get("textLength") for text in texts)


def test_its_frames_are_the_updates_and_then_the_screens(recording):
    root = ElementTree.fromstring(recording)
    lines = {
        group.get("id"): "".join(group.itertext()).replace("\xa0", " ")
        for group in root.iterfind(f"{SVG}defs/{SVG}g")
    }
    frames = [
        "\n".join(lines[use.get("href")[1:]] for use in group.iter(f"{SVG}use"))
        for group in root.iter(f"{SVG}g")
        if group.get("class") == "frame"
    ]
    signs = ["1/3", "2/3", "3/3", "History of Op", "Growth of host 1", "─Decisions─"]
    assert len(frames) == len(signs)
    for sign, frame in zip(signs, frames, strict=True):
        assert sign in frame
    assert "first: op Inf" not in frames[0]
    assert all("first: op Inf" in frame for frame in frames[1:3])
    assert len(re.findall("@keyframes", recording)) == len(frames)


@pytest.mark.parametrize("updates", [1, 12, 500])
def test_a_walk_of_any_run_is_short_and_rests_where_the_light_comes_on(write_run, updates):
    moments = record_sanctum.walk(write_run(updates))
    shown = [moment.update for moment in moments if moment.screen == "overview"]
    assert shown[-1] is None
    assert shown[:-1] == sorted(set(shown[:-1]))
    assert sum(moment.seconds for moment in moments) < 20
    longest = max(moments, key=lambda moment: moment.seconds)
    assert longest.update == LIGHT if updates >= LIGHT else longest.screen != "overview"


def test_a_run_without_an_update_is_one_sentence(tmp_path, capsys):
    run = create_run(tmp_path / "runs", "empty")
    with pytest.raises(SystemExit) as end:
        record_sanctum.main([str(run), str(tmp_path / "out.svg")])
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "out.svg").exists()
