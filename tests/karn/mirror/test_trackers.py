"""Figures copied to experiment trackers, read back with the trackers' own libraries."""

import json
import math
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from esper.cli import esper_parser
from esper.karn.mirror.mirroring import MIRRORED_NAME, mirror
from esper.karn.mirror.trackers import DestinationError, destination_of
from esper.karn.store.run_store import RunWriter, create_run

LOGGED = {"train/loss": math.nan, "reward": math.inf, "cost": -math.inf}
#: Expected figures of update 2 (the fixture `payloads` adds more).
SECOND = {
    "train/loss": math.nan, "reward": math.inf, "cost": -math.inf, "nonfinite/op/logits": 1.0,
    "train/approx_kl": 0.02, "train/entropy_loss": -3.0,
}  # fmt: skip
THIRD = {"nonfinite/op/logits": 0.0, "train/approx_kl": 0.01}


@pytest.fixture
def run(tmp_path, payloads):
    """A finished run of three updates, in the second of which `op` went Inf."""
    run = create_run(tmp_path / "runs", "test")
    with RunWriter(run) as writer:
        writer.emit(payloads.start(config={"learning_rate": 0.003}))
        write_updates(writer, payloads, 1, 2, 3)
        writer.emit(payloads.finish(update=3))
    return run


def write_updates(writer, payloads, *numbers):
    for number in numbers:
        writer.emit(payloads.episodes(number))
        if number == 2:
            seen = [payloads.sighting(head="op", quantity="logits", kind="+inf")]
            writer.emit(
                payloads.update(
                    2, approximate_kl=0.02, entropy=3.0, logged=LOGGED, head_nonfinite=seen
                )
            )
        else:
            writer.emit(payloads.update(number, approximate_kl=0.01, entropy=3.0))


def copied(run, *log_to, **options):
    """Copy without waiting; return the results and the reported sentences."""
    reports = []
    destinations = [destination_of(text, run) for text in log_to]
    options = {"follow": False, "wait": lambda _seconds: False} | options
    finished = []
    results = mirror(run, destinations, reports.append, done=finished.append, **options)
    assert {one.destination for one in finished} == set(destinations)
    return results, reports


def assert_has(figures, expected):
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, nan_ok=True), name


def printed_by_command(run, log_to):
    """Copy in a separate process; when it has ended, the tracker has written everything."""
    command = [sys.executable, "-m", "esper", "mirror", str(run), "--log-to", log_to]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def in_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    figures = {}
    for name in events.Tags()["scalars"]:
        for one in events.Scalars(name):
            figures.setdefault(one.step, {}).setdefault(name, []).append(one.value)
    return figures


def once(figures):
    """Return the figures of one update, each of which must exist exactly once."""
    assert {len(values) for values in figures.values()} == {1}
    return {name: value for name, (value,) in figures.items()}


def test_tensorboard_has_each_figure_once_and_keeps_nan_and_inf(run):
    (result,), reports = copied(run, "tensorboard")
    assert (result.updates, result.failure, reports) == (3, None, [])
    figures = in_tensorboard(run / "tensorboard")
    assert_has(once(figures[2]), SECOND)
    assert_has(once(figures[3]), THIRD)
    assert "nonfinite/op/logits" not in figures[1]


def test_figures_are_not_copied_again(run, payloads):
    copied(run, "tensorboard")
    with RunWriter(run) as writer:  # the run is resumed
        writer.emit(payloads.start(resumed_from_update=3))
        write_updates(writer, payloads, 4)
    (result,), reports = copied(run, "tensorboard")
    assert (result.updates, reports) == (1, [])
    figures = in_tensorboard(run / "tensorboard")
    assert sorted(figures) == [1, 2, 3, 4]
    # A sighting from before the resume still has its figure.
    assert_has(once(figures[4]), THIRD)
    once(figures[1])


def test_a_failing_tracker_gets_its_figures_later_and_does_not_block_others(run, tmp_path):
    place = tmp_path / "board"
    place.write_text("no folder")
    (good, bad), reports = copied(run, "tensorboard", f"tensorboard={place}")
    assert (good.updates, good.failure) == (3, None)
    assert bad.updates == 0
    assert bad.failure is not None
    assert "Error" in bad.failure
    assert len(reports) == 1
    assert reports[0].startswith(f"tensorboard={place}: ")
    place.unlink()
    (mended,), reports = copied(run, f"tensorboard={place}")
    assert (mended.updates, mended.failure, reports) == (3, None, [])
    assert_has(once(in_tensorboard(place)[2]), SECOND)


def test_a_live_run_is_followed_to_its_end(tmp_path, payloads):
    run = create_run(tmp_path, "live")
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.flush()
        todo = [(1,), (2,), (3,), ()]

        def wait(_seconds):
            numbers = todo.pop(0)
            write_updates(writer, payloads, *numbers)
            if not numbers:
                writer.emit(payloads.finish(update=3))
            writer.flush()
            return False

        (result,), _ = copied(run, "tensorboard", follow=True, wait=wait)
    assert (result.updates, todo) == (3, [])
    assert sorted(in_tensorboard(run / "tensorboard")) == [1, 2, 3]


def test_trackio_keeps_nan_and_inf(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    assert printed_by_command(run, "trackio=test") == "trackio=test: 3 updates\n"
    with sqlite3.connect(tmp_path / "trackio" / "test.db") as connection:
        rows = connection.execute("SELECT step, metrics FROM metrics").fetchall()
    figures = {}
    for step, metrics in rows:
        figures.setdefault(step, {}).update(json.loads(metrics))
    assert_has({name: float(value) for name, value in figures[2].items()}, SECOND)
    assert_has(figures[3], THIRD)


def test_mlflow_keeps_nan_and_inf(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlflow'}")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"file:{tmp_path / 'mlflow'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    (result,), reports = copied(run, "mlflow=test")
    assert (result.updates, result.failure, reports) == (3, None, [])
    client = MlflowClient(f"file:{tmp_path / 'mlflow'}")
    (own,) = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    assert (own.info.run_name, own.info.status) == (run.name, "FINISHED")
    assert own.data.params["learning_rate"] == "0.003"
    for update, expected in ((2, SECOND), (3, THIRD)):
        history = {name: client.get_metric_history(own.info.run_id, name) for name in expected}
        values = {name: {one.step: one.value for one in history[name]} for name in expected}
        found = {name: values[name][update] for name in expected}

        assert_has(found, expected)
    # Another start continues the same run.
    copied(run, "mlflow=test")
    assert len(client.search_runs([own.info.experiment_id])) == 1


def test_wandb_offline_keeps_nan_and_inf(run, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert printed_by_command(run, "wandb=test") == "wandb=test: 3 updates\n"
    (file,) = (run / "wandb").glob("offline-run-*/*.wandb")
    figures = in_wandb(file)
    assert_has(figures[2], SECOND)
    assert_has(figures[3], THIRD)


def level_db_records(data):
    """Yield the records of a log in LevelDB's format, after W&B's header of 7 bytes."""
    block, header = 32_768, 7
    position, parts = 7, b""
    while position + header <= len(data):
        if block - position % block < header:
            position += block - position % block
            continue
        size, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        parts += data[position + header : position + header + size]
        position += header + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def in_wandb(file: Path):
    """Return the figures by update, of a file that `wandb sync` would send."""
    from wandb.proto import wandb_internal_pb2

    figures = {}
    for data in level_db_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") != "history":
            continue
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json)
               for item in record.history.item}  # fmt: skip
        figures.setdefault(row["update"], {}).update(row)
    return {
        update: {name: float(value) for name, value in row.items()}
        for update, row in figures.items()
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("tensorbord", "did you mean tensorboard?"),
        ("wandb=", "has an empty place"),
        ("", "not ''"),
    ],
)
def test_the_error_for_an_unknown_tracker_is_one_sentence(given, words, tmp_path):
    with pytest.raises(DestinationError, match=words.replace("?", r"\?")):
        destination_of(given, tmp_path)


def test_the_error_for_a_missing_library_has_the_install_command(tmp_path, monkeypatch):
    monkeypatch.setattr("esper.karn.mirror.trackers.find_spec", lambda _name: None)
    with pytest.raises(
        DestinationError, match=r"needs tensorboardX; install it with: .*tensorboard"
    ):
        destination_of("tensorboard", tmp_path)


def test_a_damaged_record_is_reported_and_everything_is_copied(run):
    (run / MIRRORED_NAME).write_text("{")
    (result,), reports = copied(run, "tensorboard")
    assert result.updates == 3
    assert MIRRORED_NAME in reports[0]
    assert json.loads((run / MIRRORED_NAME).read_text())


@pytest.mark.parametrize("words", [["ppo"], ["run"]])
def test_training_does_not_start_with_an_unknown_tracker(words, tmp_path):
    arguments = [*words, "--run-dir", str(tmp_path / "runs"), "--log-to", "wandbb"]
    options = esper_parser().parse_args([*arguments, *(["--", "python"] if "run" in words else [])])
    with pytest.raises(DestinationError):
        options.verb(options)
    assert not (tmp_path / "runs").exists()


def test_a_script_is_copied_while_it_runs_and_to_its_end(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import torch, esper\n"
        "model = torch.nn.Linear(2, 1)\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "with esper.watch(model, optimizer, name='loop') as watch:\n"
        "    for _ in range(3):\n"
        "        loss = model(torch.ones(4, 2)).square().mean()\n"
        "        optimizer.zero_grad()\n"
        "        loss.backward()\n"
        "        optimizer.step()\n"
        "        watch.update(loss=loss)\n"
    )
    printed = subprocess.run(
        [sys.executable, "-m", "esper", "run", "--run-dir", "runs", "--no-sanctum",
         "--log-to", "tensorboard=board", "--", sys.executable, str(script)],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Not all figures" not in printed.stderr
    assert sorted(in_tensorboard(tmp_path / "board")) == [1, 2, 3]
