"""Log messages and incidents of a watched run: each kind is reported once."""

import copy
import logging
import sys

import pytest
import torch
from torch import nn

import esper
from esper.karn.reports.run_end import closing_lines
from esper.services.launch.script_process import prepare_script_run

HEADS = {"steer": 3, "brake": 2}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 5))


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.WARNING, "esper")
    return lambda: [record.getMessage() for record in caplog.records]


def minibatch(model, optimizer, observations, scale=1.0):
    optimizer.zero_grad()
    (model(observations).log_softmax(-1)[:, 0] * scale).mean().backward()
    optimizer.step()


def bad(observations):
    observations[2, 1] = torch.nan
    return observations


def test_skipped_steps_are_logged_once_and_then_counted(model, tmp_path, lines):
    optimizer = torch.optim.Adam(model.parameters())
    options = {"run_dir": tmp_path, "on_nonfinite": "skip", "finds_updates": False}
    with esper.watch(model, optimizer, HEADS, **options) as watch:
        for update in range(3):
            for number in range(20):
                observations = torch.randn(16, 4)
                is_bad = update < 2 and number >= 4
                minibatch(model, optimizer, bad(observations) if is_bad else observations)
            watch.update()

    first, after_ten, at_the_end = lines()
    assert "shared NaN in observations, update 1, minibatch 5; it began in fill_" in first
    assert "; this optimizer step is skipped (run " in first
    assert after_ten.startswith("16 of 20 optimizer steps were skipped because of non-finite")
    assert at_the_end.startswith("32 of 60 optimizer steps were skipped because of non-finite")
    run = esper.open_run(run_dir=tmp_path)
    assert [(one["number"], one["update"]) for one in run.incidents] == [(1, 1)]
    (row,) = run.evidence
    assert (row.updates, row.minibatches) == (2, 32)
    assert (row.first_minibatch, row.last_minibatch) == (5, 20)


def test_another_kind_of_incident_in_a_later_update_is_logged(model, tmp_path, lines):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with esper.watch(model, optimizer, HEADS, run_dir=tmp_path) as watch:
        for update in range(4):
            kept = copy.deepcopy(model.state_dict())
            observations = torch.randn(16, 4)
            if update == 2:
                with torch.no_grad():
                    model[2].bias[4] = torch.inf
            minibatch(model, optimizer, bad(observations) if update < 2 else observations)
            model.load_state_dict(kept)  # as a loop does that takes bad steps back
            watch.update()

    observed, brake, again = lines()
    assert "shared NaN in observations, update 1" in observed
    assert "brake Inf in parameters (2.bias), update 3" in brake
    assert again.startswith("non-finite values were seen again 1 time")
    assert [one["update"] for one in esper.open_run(run_dir=tmp_path).incidents] == [1, 3]


def test_consequences_of_a_bad_step_are_not_logged(model, tmp_path, lines):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with esper.watch(model, optimizer, HEADS, run_dir=tmp_path) as watch:
        for _ in range(4):
            minibatch(model, optimizer, bad(torch.randn(16, 4)))
            watch.update()

    assert len(lines()) == 1
    assert len(esper.open_run(run_dir=tmp_path).incidents) == 1


def test_the_log_of_a_halt_has_the_reason_and_the_next_command(model, tmp_path, lines):
    optimizer = torch.optim.Adam(model.parameters())
    watch = esper.watch(model, optimizer, HEADS, run_dir=tmp_path, on_nonfinite="halt")
    with pytest.raises(SystemExit) as ended, watch:
        minibatch(model, optimizer, bad(torch.randn(16, 4)))

    assert ended.value.code == 3
    found, halted = lines()
    assert "; training ends here (run " in found
    reason = "Esper ended training with exit code 3 because of incident 1 (on_nonfinite='halt')"
    assert halted.startswith(f"{reason}; what to do next: ")
    assert "esper incidents" in halted
    run = esper.open_run(run_dir=tmp_path)
    assert run.status == "HALTED"
    assert run.snapshot.run.reason == reason


def test_acting_belongs_to_the_update_that_follows(model, tmp_path, lines):
    optimizer = torch.optim.Adam(model.parameters())
    with esper.watch(model, optimizer, HEADS, run_dir=tmp_path):
        for update in range(4):  # this loop never calls `Watch.update`
            observations = torch.randn(3, 4)
            with torch.no_grad():
                model(bad(observations) if update == 2 else observations)
            for _ in range(2):
                minibatch(model, optimizer, torch.randn(16, 4))
            with torch.no_grad():
                model(torch.randn(1, 4))

    (line,) = lines()
    assert "update 3, while acting" in line
    run = esper.open_run(run_dir=tmp_path)
    assert [one["update"] for one in run.incidents] == [3]
    assert run.evidence[0].first_update == 3
    assert [row["minibatches"] for row in run.history()] == [2, 2, 2, 2]


def test_a_call_without_gradients_within_a_minibatch_is_not_acting(model, tmp_path):
    optimizer = torch.optim.Adam(model.parameters())
    with esper.watch(model, optimizer, HEADS, run_dir=tmp_path):
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(torch.randn(16, 4)).log_softmax(-1)[:, 0].mean()
            with torch.no_grad():
                model(torch.randn(16, 4))
            loss.backward()
            optimizer.step()

    (row,) = esper.open_run(run_dir=tmp_path).history()
    assert row["minibatches"] == 3


def test_an_interrupted_update_has_no_times(model, tmp_path):
    optimizer = torch.optim.Adam(model.parameters())
    watch = esper.watch(model, optimizer, HEADS, run_dir=tmp_path)
    with watch.updating():
        minibatch(model, optimizer, torch.randn(16, 4))
    watch.update()
    with torch.no_grad():
        model(bad(torch.randn(3, 4)))
    watch.end(RuntimeError("the environment is gone"))

    run = esper.open_run(run_dir=tmp_path)
    whole, broken = run.history()
    assert whole["update_seconds"] is not None
    assert (broken["rollout_seconds"], broken["update_seconds"]) == (None, None)
    assert run.snapshot.training.time_shares == {}


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_the_error_for_a_folder_without_write_access_is_one_sentence(model, tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(esper.EsperError, match="cannot be written") as refused:
        esper.watch(model, torch.optim.Adam(model.parameters()), HEADS, run_dir=tmp_path / place)

    assert "set run_dir or ESPER_RUN_DIR to a writable folder" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not model[2]._forward_hooks


def test_a_run_of_the_command_keeps_its_name(model, tmp_path, monkeypatch):
    started = prepare_script_run(tmp_path, "ant", ["python"])
    monkeypatch.setenv("ESPER_WATCHED_RUN", str(started))
    esper.watch(model, torch.optim.Adam(model.parameters()), HEADS).close()

    assert esper.open_run(started).snapshot.run.name == "ant"


def test_a_notebook_shows_whether_training_stalled(model, tmp_path):
    for learning_rate in (0.1, 0.0):
        optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
        name = f"rate-{learning_rate}"
        with esper.watch(model, optimizer, HEADS, name=name, run_dir=tmp_path) as watch:
            for _ in range(5):
                minibatch(model, optimizer, torch.randn(16, 4))
                watch.update()

    moving, still = (
        esper.open_run(f"rate-{rate}", run_dir=tmp_path)._repr_html_() for rate in (0.1, 0.0)
    )
    assert "○ stalled" in moving
    assert "● stalled" in still


def test_the_closing_lines_have_the_origin_and_suggest_only_possible_replays(model, tmp_path):
    optimizer = torch.optim.Adam(model.parameters())
    with esper.watch(model, optimizer, HEADS, run_dir=tmp_path) as watch:
        minibatch(model, optimizer, bad(torch.randn(16, 4)))
    why = "a custom training loop"
    (incident,) = esper.open_run(run_dir=tmp_path).incidents
    text = "\n".join(closing_lines(watch.recorder.directory))
    assert "it came in with observations[" in text
    assert (
        "which is NaN; first used by addmm, forward pass, at tests/recording/test_incident_log.py:"
        in text
    )
    if incident["why_not_repeated"]:
        assert incident["why_not_repeated"].startswith(why)
        assert "esper replay" not in text
        assert text.index("esper incidents") < text.index("sanctum")
    else:
        assert "esper replay" in text


def test_watching_a_model_again_ends_its_earlier_run(model, tmp_path, lines):
    optimizer = torch.optim.Adam(model.parameters())
    for name in ("first", "second"):
        watch = esper.watch(model, optimizer, HEADS, name=name, run_dir=tmp_path)
    minibatch(model, optimizer, bad(torch.randn(16, 4)))
    watch.close()

    again, found = lines()
    assert again.startswith("this model is watched again: its run ")
    assert "shared NaN in observations" in found
    first, second = (esper.open_run(name, run_dir=tmp_path) for name in ("first", "second"))
    assert (first.status, len(first.incidents)) == ("FINISHED", 0)
    assert len(second.incidents) == 1


def test_an_exception_at_a_prompt_does_not_end_the_run(model, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    monkeypatch.setattr(sys, "excepthook", lambda *_: None)
    optimizer = torch.optim.Adam(model.parameters())
    watch = esper.watch(model, optimizer, HEADS, run_dir=tmp_path)
    error = KeyError("a typing error")
    sys.excepthook(KeyError, error, None)
    minibatch(model, optimizer, bad(torch.randn(16, 4)))
    watch.close()

    run = esper.open_run(run_dir=tmp_path)
    assert (run.status, len(run.incidents)) == ("FINISHED", 1)
