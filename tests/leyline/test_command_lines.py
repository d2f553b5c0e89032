"""Printed commands can be pasted: started as Esper was started, quoted, without default options."""

import shlex
import sys
from pathlib import Path

import pytest

from esper.leyline.text import command_lines
from esper.leyline.text.command_lines import command_line, install_command
from esper.leyline.text.suggestions import did_you_mean


@pytest.fixture
def without_uv(monkeypatch):
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)


@pytest.fixture
def with_uv(monkeypatch):
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    monkeypatch.setattr(command_lines, "_typed_before_program", list)


@pytest.mark.usefixtures("without_uv")
def test_a_program_on_the_path_is_called_by_its_name(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert command_line("sanctum", "a run") == "sanctum 'a run'"


@pytest.mark.usefixtures("without_uv")
def test_a_program_that_is_not_on_the_path_is_called_by_its_path(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "my env" / "python"))
    assert command_line("esper", "runs") == "esper runs"  # nor is it in Python's folder
    (tmp_path / "my env").mkdir()
    (tmp_path / "my env" / "esper").write_text("")
    assert shlex.split(command_line("esper", "runs")) == [str(tmp_path / "my env/esper"), "runs"]


@pytest.mark.usefixtures("with_uv")
def test_what_uv_run_started_is_started_with_it_again():
    assert (
        command_line("esper", "ppo", "--name", "it's") == """uv run esper ppo --name 'it'"'"'s'"""
    )
    assert install_command("serve") == "uv sync --extra serve"


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        (["/usr/bin/uv", "run", "--no-sync", "esper", "ppo"], ["uv", "run", "--no-sync"]),
        (["uv", "run", "--project", "a b", "esper"], ["uv", "run", "--project", "a b"]),
        (["uv", "run", "sanctum"], ["uv", "run"]),
        (["bash", "-c", "esper"], []),
        (["uv", "run", "bash"], []),
    ],
)
def test_options_of_uv_run_are_kept(monkeypatch, words, typed):
    monkeypatch.setattr(Path, "read_text", lambda *_: "\0".join([*words, ""]))
    assert command_lines._typed_before_program() == typed


@pytest.mark.usefixtures("without_uv")
def test_an_extra_of_a_clone_is_installed_from_the_clone():
    words = shlex.split(install_command("datasets"))
    assert words[:2] == ["pip", "install"]
    source = words[2].removesuffix("[datasets]")
    assert (Path(source) / "pyproject.toml").is_file()


@pytest.mark.usefixtures("without_uv")
def test_an_extra_of_an_installed_package_is_that_of_its_distribution(monkeypatch, tmp_path):
    monkeypatch.setattr(command_lines, "__file__", str(tmp_path / "a/b/c/command_lines.py"))
    assert install_command("serve") == "pip install 'esper-rl[serve]'"


def test_a_name_is_suggested_only_if_it_is_near():
    known = ("--episodes", "--envs", "Shared")
    assert did_you_mean("--episods", known) == "; did you mean --episodes?"
    assert did_you_mean("shard", known) == "; did you mean Shared?"
    assert did_you_mean("--zzz", known) == ""
