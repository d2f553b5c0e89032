"""The end of a run: verdict, score against the guides, and commands that can be pasted."""

import io
import json
import shlex
from pathlib import Path

import pytest
from checkpoint_files import write_empty_checkpoint

import esper
from esper.cli import esper_parser
from esper.commands.ppo.ending import print_ending
from esper.commands.sanctum import sanctum_parser
from esper.karn.reports.run_commands import resume_command, run_command
from esper.karn.reports.run_end import closing_lines
from esper.karn.sanctum.fold.ranks.rank_state import RankState
from esper.karn.store.liveness import RunStatus, StatusKind
from esper.karn.store.rank_folders import create_rank_folder
from esper.karn.store.reading.completeness import COMPLETE
from esper.karn.store.run_store import RunWriter, create_run, find_run
from esper.leyline.score_guides import GUIDED_STEPS, GUIDED_TASK, GUIDES, guides_of
from esper.simic.config import TrainingConfig


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder, in an environment in which Esper is started by its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ESPER_RUN_DIR", raising=False)
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: name)
    return tmp_path


def ended(payloads, run_dir="runs", status="finished", **start):
    run = create_run(Path(run_dir), "it's")
    with RunWriter(run) as writer:
        writer.emit(payloads.start(**start))
        writer.emit(payloads.episodes(1))
        writer.emit(payloads.broken_update(1, "op", "+inf"))
        writer.emit(payloads.finish(status, update=1, episodes_done=2))
    write_empty_checkpoint(run, 1, episodes_done=2)
    return run


def test_the_end_says_verdict_score_guides_and_what_to_do_next(payloads):
    run = ended(payloads, episodes=2)
    outcome, score, following, *commands = closing_lines(run)
    assert outcome == f"{run.name} finished, CRITICAL: op went Inf in logits, update 1"
    assert score.startswith("mean score of the last episodes: 0.500 (for comparison: never growing")
    for name, value in GUIDES.items():
        assert f"{name} {value:.3f}" in score
    assert following == "next:"
    words = [shlex.split(command) for command in commands]
    assert [each[:2] for each in words] == [
        ["sanctum", run.name],
        ["esper", "eval"],
        ["esper", "grow"],
        ["esper", "ppo"],
    ]
    assert words[3] == ["esper", "ppo", "--resume", run.name, "--episodes", "4"]


def test_a_run_of_several_ranks_is_resumed_with_as_many(payloads):
    run = ended(payloads, world_size=2)
    folder = create_rank_folder(run, 1)
    with RunWriter(folder) as writer:
        writer.emit(payloads.start(run_id=run.name, rank=1, world_size=2))
        writer.emit(payloads.finish())
    command = closing_lines(run)[-1]
    assert shlex.split(command)[:4] == ["torchrun", "--nproc-per-node", "2", "-m"]
    assert shlex.split(command)[4:8] == ["esper", "ppo", "--resume", run.name]


def test_a_run_on_several_machines_has_a_command_for_each(folder):
    ranks = [
        RankState(rank, RunStatus(StatusKind.FINISHED, None, ""), COMPLETE, machine=machine)
        for rank, machine in enumerate(["node7", "node7", "node8", "node8"])
    ]
    words = shlex.split(resume_command(folder / "runs" / "ant", ranks))
    assert words[:5] == ["torchrun", "--nnodes", "2", "--nproc-per-node", "2"]
    assert words[5:9] == ["--rdzv-backend", "c10d", "--rdzv-endpoint", "node7:29500"]
    assert words[9:14] == ["-m", "esper", "ppo", "--resume", "ant"]


@pytest.mark.parametrize("run_dir", ["runs", "my runs", "/tmp/../tmp/esper $elsewhere"])
def test_printed_commands_are_understood_as_they_are(payloads, folder, run_dir):
    run_dir = str(folder / run_dir.lstrip("/")) if run_dir.startswith("/") else run_dir
    run = ended(payloads, run_dir, status="stopped")
    *_, watch, evaluate, grow, resume = closing_lines(run)
    found = [sanctum_parser().parse_args(shlex.split(watch)[1:])]
    found += [esper_parser().parse_args(shlex.split(line)[1:]) for line in (evaluate, grow, resume)]
    for options, reference in zip(
        found, (found[0].run, found[1].policies[0], found[2].policy, found[3].resume), strict=True
    ):
        assert find_run(options.run_dir, reference).resolve() == run.resolve()
    assert ("--run-dir" in resume) == (run_dir != "runs")
    assert "--episodes" not in resume  # there is something left to do


def test_the_folder_of_the_environment_is_not_repeated(payloads, monkeypatch):
    run = ended(payloads, "elsewhere")
    assert "--run-dir" in run_command(run, "sanctum")
    monkeypatch.setenv("ESPER_RUN_DIR", "elsewhere")
    assert "--run-dir" not in run_command(run, "sanctum")


def test_without_a_checkpoint_there_is_nothing_to_evaluate_or_grow_with(payloads):
    run = ended(payloads, task="digits")
    (run / "checkpoints" / "update-000001.pt").unlink()
    lines = closing_lines(run)
    assert "(for comparison" not in "".join(lines)  # the guides are of another task
    assert not any("eval" in line or "grow" in line for line in lines[3:])


def test_the_guides_are_those_of_the_shipped_evaluation():
    shipped = Path(esper.__file__).parent / "tamiyo" / "shipped" / "evaluation.json"
    evaluation = json.loads(shipped.read_text())
    assert (evaluation["task"], evaluation["steps"]) == (GUIDED_TASK, GUIDED_STEPS)
    means = {
        each["name"]: each["standings"]["score"]["mean"]["value"]
        for each in evaluation["contestants"]
    }
    names = ("none", "random", "heuristic", "agent")
    assert list(GUIDES.values()) == [pytest.approx(means[name], abs=5e-4) for name in names]
    assert guides_of("digits", GUIDED_STEPS) == guides_of(GUIDED_TASK, 5) == {}


@pytest.mark.parametrize(("settings", "grows"), [({"task": "digits"}, True), ({}, False)])
def test_the_task_comes_from_the_checkpoint_where_the_store_does_not_know_it(settings, grows):
    run = create_run(Path("runs"), "lost")
    with RunWriter(run):
        pass
    write_empty_checkpoint(run, 1, episodes_done=2, **settings_of(settings))
    commands = [line for line in closing_lines(run) if "esper grow" in line]
    assert [" --task digits " in line for line in commands] == [True] * grows


def settings_of(settings):
    return {"config": TrainingConfig(**settings)} if settings else {}


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self):
        return True


def test_on_a_terminal_sentences_break_at_words_and_commands_never(payloads, monkeypatch):
    run = ended(payloads, "a/folder/of/runs/with/a/name/that/is/long")
    monkeypatch.setenv("COLUMNS", "40")
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    lines = closing_lines(run)
    print_ending(run, lines)
    printed = shown.getvalue().split("\n\n")[-1].splitlines()
    commands = [line for line in lines if line.startswith(" ")]
    assert printed[-len(commands) :] == commands
    sentences = printed[: -len(commands)]
    assert max(map(len, sentences)) <= 40
    assert " ".join(sentences).split() == " ".join(lines[: -len(commands)]).split()


def test_a_drill_is_marked_in_the_last_lines(payloads):
    run = create_run(Path("runs"), "drill")
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.update(1, head_nonfinite=[payloads.sighting(planted=True)]))
        writer.emit(payloads.finish())
    assert closing_lines(run)[0].count("drill") == 2  # in the run's name, and what lit the light
