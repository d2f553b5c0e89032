"""The settings file: what it keeps, and what becomes of a damaged one."""

import pytest

from esper.karn.sanctum.cockpit.settings import (
    Settings,
    SettingsError,
    SettingsFile,
    read_settings,
    write_settings,
)


@pytest.mark.parametrize(
    "settings", [Settings(), Settings(theme="ansi", reduced_motion=True, bell=False, ascii=True)]
)
def test_what_is_written_is_read_again(tmp_path, settings):
    path = tmp_path / "deep" / "sanctum.toml"
    write_settings(settings, path)
    assert read_settings(path) == settings


def test_without_a_file_there_are_the_defaults(tmp_path):
    assert read_settings(tmp_path / "none.toml") == Settings()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"theme = ", "not valid TOML"),
        (b"\xff\x00\xfe", "not valid TOML"),
        (
            b"theme = " + b"[" * 5_000 + b"]" * 5_000,
            "not valid TOML: .* too deeply",
        ),
        (b"theme = " + b"9" * 4_301, "not valid TOML"),
        (b"bell = 0x" + b"f" * 9_000, "not a value that is too long to show"),
        (b"x" * 5_000 + b" = 1", "x… is not a setting; known are theme"),
        (
            b'theme = "pink"',
            "sanctum.toml: theme must be one of dark, light, ansi, contrast, not",
        ),
        (b"bell = 3", "bell must be true or false, not 3"),
        (b"color = true", "'color' is not a setting; known are theme, reduced_motion"),
    ],
)
def test_an_invalid_file_is_one_sentence_and_the_defaults_apply(tmp_path, content, expected):
    path = tmp_path / "sanctum.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=expected) as caught:
        read_settings(path)
    assert "\n" not in str(caught.value)
    file = SettingsFile(path)
    assert file.settings == Settings()
    assert file.problem.endswith("Sanctum uses the defaults")
    with pytest.raises(SettingsError, match="the change was not saved: "):
        file.change(bell=False)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_only_the_changed_setting_is_written(tmp_path):
    path = tmp_path / "sanctum.toml"
    write_settings(Settings(bell=False), path)
    SettingsFile(path).change(theme="light")
    assert read_settings(path) == Settings(theme="light", bell=False)


def test_a_full_disk_leaves_the_file_unchanged_and_no_partial_file(tmp_path, full_disk):
    path = tmp_path / "sanctum.toml"
    write_settings(Settings(bell=False), path)
    file = SettingsFile(path)
    with full_disk(), pytest.raises(SettingsError, match="cannot write the settings") as caught:
        file.change(theme="light")

    assert "\n" not in str(caught.value)
    assert file.settings == Settings(theme="light", bell=False)
    assert read_settings(path) == Settings(bell=False)
    assert list(tmp_path.iterdir()) == [path]


def test_where_it_cannot_be_written_that_is_one_sentence_and_the_change_holds(tmp_path):
    (tmp_path / "file").write_text("")
    file = SettingsFile(tmp_path / "other.toml")
    file._path = tmp_path / "file" / "sanctum.toml"
    with pytest.raises(SettingsError, match="cannot write the settings"):
        file.change(theme="light")
    assert file.settings.theme == "light"


async def test_the_keys_and_the_palette_remember(views, sanctum, seen, tmp_path):
    path = tmp_path / "sanctum.toml"
    app = sanctum(views.view(), settings_file=SettingsFile(path))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press("d")
        assert read_settings(path).theme == "light"
        await pilot.press("d", "d", "d")  # through all of them, and back
        assert read_settings(path).theme == "dark"
        app.change_setting("ascii", True)
        assert read_settings(path).ascii


async def test_a_full_disk_is_reported_and_the_theme_still_changes(
    views, sanctum, seen, tmp_path, full_disk
):
    path = tmp_path / "sanctum.toml"
    app = sanctum(views.view(), settings_file=SettingsFile(path))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        with full_disk():
            await pilot.press("d")
        assert app.settings.theme == "light"
        (note,) = app._notifications
        assert note.message.startswith(f"cannot write the settings {path}")
        assert list(tmp_path.iterdir()) == []


async def test_a_damaged_file_is_reported_in_one_sentence(views, sanctum, seen, tmp_path):
    path = tmp_path / "sanctum.toml"
    path.write_bytes(b"\xff")
    app = sanctum(views.view(), settings_file=SettingsFile(path))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        (note,) = app._notifications
        assert "is not valid TOML" in note.message
