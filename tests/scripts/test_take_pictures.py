from xml.etree import ElementTree

import take_pictures

from esper.karn.store.run_store import RunWriter, create_run


def test_every_screen_is_taken_in_dark_and_in_light(tmp_path, payloads):
    run = create_run(tmp_path / "runs", "pictured")
    with RunWriter(run) as writer:
        for payload in (payloads.start(), payloads.step(), payloads.update(), payloads.finish()):
            writer.emit(payload)
    images = tmp_path / "images"
    take_pictures.main([str(run), "--out", str(images)])
    pictures = {path.stem: path.read_text(encoding="utf-8") for path in images.iterdir()}
    assert set(pictures) == {
        f"{screen}-{theme}"
        for screen in ("overview", "heads", "hosts")
        for theme in ("dark", "light")
    }
    for name, picture in pictures.items():
        ElementTree.fromstring(picture)
        assert ("#f6f5f1" in picture) == name.endswith("light")  # the light theme's ground
