"""Capsules of Stable-Baselines3 trainings, and their replay."""

import hashlib
import json
import logging
import os
import subprocess
import sys
from contextlib import suppress

import pytest
import torch
from sb3_faults import INF, NAN, Planted, in_moment, in_parameter, in_rollout, planted_step
from sb3_models import ALGORITHMS, BOX, DISCRETE, ON_POLICY, ROLLOUT, Walk, build

import esper
from esper.integrations.sb3 import EsperCallback
from esper.karn.reports.run_end import closing_lines
from esper.leyline.files.incident_files import CAPSULE_NAME, SUMMARY_NAME
from esper.services.incident_reports import incidents_of, replay_incident
from esper.simic.command_progress import NoProgress
from esper.simic.replay.incidents import IncidentError
from esper.simic.replay.replay_report import moment, replay_as_json
from esper.simic.replay.verdict import NOT_REPRODUCED, REPRODUCED

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")


@pytest.fixture(autouse=True, scope="module")
def _quiet_and_alone():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(threads)


def trained(folder, model, *callbacks, steps=3 * ROLLOUT, **options):
    """Train under a watch until the end or a refusal of NaN; return the run."""
    callback = EsperCallback(run_dir=folder, **options)
    with suppress(ValueError):
        model.learn(steps, callback=[*callbacks, callback])
    assert callback.watch.failures == 0, callback.watch.last_failure
    (run,) = folder.iterdir()
    return run


def whole_replay(run, number=None):
    return replay_incident(run.parent, str(run), number, update=None, progress=NoProgress())


def replayed(run, number=None):
    return whole_replay(run, number).replay


def seen(replay):
    return [(one.head, one.quantity, one.kind) for one in replay.seen]


#: Replays the first incident of each run, in one process: most of a replay is its start.
REPLAY_ALL = """
import sys
from esper.cli import main

codes = []
for run in sys.argv[1:]:
    try:
        main(["replay", "--json", run, "1"])
    except SystemExit as end:
        codes.append(end.code or 0)
sys.exit(max(codes))
"""


def test_capsules_are_reproduced_in_a_fresh_process(tmp_path):
    runs = []
    for name in ON_POLICY:
        space = ALGORITHMS[name][3][-1]
        model = build(name, space, Walk(space, planted_step(34, reward=INF)))
        runs.append(trained(tmp_path / name, model))

    result = subprocess.run(
        [sys.executable, "-c", REPLAY_ALL, *map(str, runs)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    assert result.returncode == 0, result.stderr
    reports = json.loads("[" + result.stdout.replace("\n}\n{", "\n},\n{") + "]")
    for name, report in zip(ON_POLICY, reports, strict=True):
        assert report["verdict"] == REPRODUCED, name
        assert [one["quantity"] for one in report["seen"]] == ["rewards"]
        assert "variable rollout_data." in report["origin"]["cause"]
        module = ALGORITHMS[name][0].__module__.split(".")[-1]
        assert report["origin"]["file"].endswith(f"{module}.py")
        assert report["remarks"] == []


FAULTS = {
    "old log-prob": (in_rollout, ("log_probs", -500.0), "aten.exp.default", "ratio = th.exp("),
    "weight": (
        in_parameter, ("action_net.weight", (-1, 0), NAN), "aten.addmm.default", "action_net(",
    ),
    "value": (
        in_parameter, ("value_net.weight", (0, 0), INF), "aten.addmm.default", "value_net(latent_",
    ),
    "first moment": (
        in_moment, ("action_net.bias", 0, NAN), "aten.lerp_.Scalar", "self.policy.optimizer.step()",
    ),
    "second moment": (
        in_moment, ("action_net.bias", 0, -1.0, "exp_avg_sq"), "aten.sqrt.default",
        "self.policy.optimizer.step()",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["PPO", "MaskablePPO", "RecurrentPPO"])
def test_the_operation_of_a_fault(name, fault, tmp_path):
    plant, arguments, operation, code = FAULTS[fault]

    run = trained(tmp_path, build(name, ALGORITHMS[name][3][0]), plant(*arguments))
    replay = replayed(run)

    assert (replay.verdict, replay.differences) == (REPRODUCED, ())
    assert replay.origin is not None
    assert replay.origin.operation.name.startswith(operation)
    assert code in replay.origin.operation.place.code


def test_a_moment_that_breaks_the_only_step_of_an_update(tmp_path):
    """It is seen in the weights, after the update."""
    plant = in_moment("action_net.bias", 1, NAN, "square_avg")

    replay = replayed(trained(tmp_path, build("A2C", DISCRETE), plant))

    assert replay.verdict == REPRODUCED
    assert seen(replay) == [("action", "moments", "nan")]
    assert replay.origin.operation.phase == "step"


@pytest.mark.parametrize(
    ("plant", "quantity"),
    [
        (in_rollout("advantages", NAN), "rollout_data.advantages"),
        (in_rollout("log_probs", -500.0), "ratio"),
    ],
)
def test_what_training_knows_by_flags_alone_is_named_by_the_replay(plant, quantity, tmp_path):
    replay = replayed(trained(tmp_path, build("PPO", BOX), plant, when="update"))

    assert {one.quantity for one in replay.recorded} == {"gradient"}
    assert {one.minibatch for one in replay.recorded} == {2}
    assert replay.verdict == REPRODUCED
    assert [one.quantity for one in replay.seen] == [quantity]
    assert any("recorded only flags" in remark for remark in replay.remarks)


def test_a_standard_deviation_that_overflows(tmp_path):
    replay = replayed(trained(tmp_path, build("PPO", BOX), in_parameter("log_std", 1, 100.0)))

    assert replay.verdict == REPRODUCED
    assert "overflow in exp" in replay.origin.cause


def test_an_optimizer_without_eps(tmp_path):
    kwargs = {"net_arch": [8], "optimizer_kwargs": {"eps": 0.0}}

    replay = replayed(trained(tmp_path, build("PPO", DISCRETE, vf_coef=0.0, policy_kwargs=kwargs)))

    assert replay.verdict == REPRODUCED
    assert replay.origin.operation.phase == "step"


def test_a_learning_rate_that_is_far_too_large(tmp_path):
    replay = replayed(trained(tmp_path, build("PPO", DISCRETE, learning_rate=1e20)))

    assert replay.verdict == REPRODUCED
    assert "overflow" in replay.origin.cause


@pytest.mark.parametrize("name", ON_POLICY)
def test_a_choice_of_actions_is_repeated(name, tmp_path):
    space = ALGORITHMS[name][3][0]
    model = build(name, space, Walk(space, planted_step(33, observation=NAN)))

    found = whole_replay(trained(tmp_path, model))
    replay = found.replay

    assert replay.verdict == REPRODUCED
    assert seen(replay) == [("shared", "obs_tensor", "nan")]
    assert replay.origin is not None
    assert "obs_tensor[0, 1]" in replay.origin.cause
    per_epoch = found.minibatches_per_epoch
    assert moment(replay, replay.origin.operation, per_epoch) == "forward, while acting"
    report = replay_as_json(replay, found.run, found.number, per_epoch)
    assert (report["acting"], report["origin"]["minibatch"]) == (True, None)


def test_the_second_incident_of_an_update_whose_bad_steps_are_skipped(tmp_path):
    def plant(model):
        model.rollout_buffer.advantages[3, 0] = NAN
        model.rollout_buffer.log_probs[20, 0] = -500.0

    model = build("PPO", DISCRETE, batch_size=4, n_epochs=1)
    run = trained(tmp_path, model, Planted(plant, rollout=2), on_nonfinite="skip")

    first, second = replayed(run, 1), replayed(run, 2)

    assert (first.verdict, second.verdict) == (REPRODUCED, REPRODUCED)
    # One numbering: minibatches are counted by update, in training and in the replay.
    for replay in (first, second):
        when = moment(replay, replay.origin.operation, 0)
        assert when.endswith(f", minibatch {replay.recorded[0].minibatch}")
        assert "epoch" not in when
    assert first.origin.operation.name != second.origin.operation.name


def test_what_later_callbacks_do_before_the_update_is_in_the_capsule(tmp_path):
    class Late(Planted):
        pass

    def plant(model):
        torch.manual_seed(99)
        model.policy.value_net.bias.data += 1.0
        model.rollout_buffer.advantages[3, 0] = NAN

    callback = EsperCallback(run_dir=tmp_path)
    with suppress(ValueError):
        build("PPO", DISCRETE).learn(3 * ROLLOUT, callback=[callback, Late(plant, rollout=2)])
    (run,) = tmp_path.iterdir()

    assert replayed(run).verdict == REPRODUCED


def test_a_fault_that_is_not_in_the_capsule_is_not_reproduced(tmp_path):
    model = build("PPO", DISCRETE)
    count = 0

    def break_weight(*_):
        nonlocal count
        count += 1
        if count == 6:
            model.policy.action_net.weight.data[0, 0] = NAN

    handle = model.policy.optimizer.register_step_post_hook(break_weight)
    run = trained(tmp_path, model)
    handle.remove()

    replay = replayed(run)

    assert replay.verdict == NOT_REPRODUCED
    assert replay.origin is None
    report = replay_as_json(replay, run.name, 1, 2)
    assert (report["verdict"], report["seen"]) == (NOT_REPRODUCED, [])


def test_a_run_lists_its_capsules(tmp_path):
    run = trained(tmp_path, build("PPO", DISCRETE), in_rollout("advantages", NAN))

    (row,) = incidents_of(run).rows

    assert row["kept"]
    assert 0 < row["size"] < 100_000
    assert row["path"].endswith("0001")
    assert row["why_not_repeated"] == ""
    assert any("esper replay" in line for line in closing_lines(run))


def test_a_plain_loop_keeps_its_tensors(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.Adam(model.parameters())
    with esper.watch(model, optimizer, {"a": 3}, run_dir=tmp_path):
        for number in range(4):
            observations = torch.randn(8, 4)
            if number == 2:
                observations[1, 2] = NAN
            optimizer.zero_grad()
            model(observations).log_softmax(-1)[:, 0].mean().backward()
            optimizer.step()
    (run,) = tmp_path.iterdir()

    values = torch.load(run / "incidents" / "0001" / CAPSULE_NAME, weights_only=True)
    assert values["data"]["observations"][1, 2].isnan()
    assert list(values["start"]["weights"][0]) == ["weight", "bias"]


def test_a_model_that_is_too_large_has_no_capsule(tmp_path, monkeypatch):
    for limit in ("LARGEST", "_LARGEST_START"):
        monkeypatch.setattr(f"esper.services.watched_run.{limit}", 1000)

    run = trained(tmp_path, build("PPO", DISCRETE), in_rollout("advantages", NAN))

    (row,) = incidents_of(run).rows
    assert not row["kept"]
    assert "MiB" in row["reason"]
    assert not (run / "incidents").exists()


def test_of_a_large_state_the_recorded_operations_are_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr("esper.services.watched_run._LARGEST_START", 1000)

    replay = replayed(trained(tmp_path, build("PPO", DISCRETE), in_rollout("log_probs", -500.0)))

    assert replay.verdict == REPRODUCED
    assert replay.origin.operation.name == "aten.exp.default"
    assert "ratio = th.exp(" in replay.origin.operation.place.code
    assert any("recorded PyTorch operations" in remark for remark in replay.remarks)


def test_training_does_not_notice_the_capsule(tmp_path):
    results = []
    for options in ({}, {"replay": "off"}):
        model = build("PPO", DISCRETE)
        trained(tmp_path / str(len(results)), model, **options)
        results.append(model.policy.state_dict())
    assert all(map(torch.equal, results[0].values(), results[1].values()))


@pytest.fixture(scope="module")
def capsule(tmp_path_factory):
    """Return the folder of a capsule and its content."""
    folder = tmp_path_factory.mktemp("runs")
    run = trained(folder, build("PPO", DISCRETE), in_rollout("advantages", NAN))
    incident = run / "incidents" / "0001"
    return incident, torch.load(incident / CAPSULE_NAME, weights_only=True)


def tampered(tmp_path, capsule, values):
    """Write a capsule with other values, and the digest that fits them; return its folder."""
    folder = tmp_path / "0001"
    folder.mkdir()
    torch.save(values, folder / CAPSULE_NAME)
    summary = json.loads((capsule[0] / SUMMARY_NAME).read_text())
    summary["sha256"] = hashlib.sha256((folder / CAPSULE_NAME).read_bytes()).hexdigest()
    (folder / SUMMARY_NAME).write_text(json.dumps(summary))
    return folder


def refusal(folder):
    with pytest.raises(IncidentError) as raised:
        replay_incident(folder, str(folder), None, update=None, progress=NoProgress())
    assert "\n" not in str(raised.value)
    return str(raised.value)


def changed(values, path, value):
    """Return a copy of nested values in which one, at a path such as "plan.n_envs", is another."""
    name, _, rest = path.partition(".")
    key = int(name) if isinstance(values, list) else name
    inner = value if not rest else changed(values[key], rest, value)
    if isinstance(values, list):
        return [inner if number == key else one for number, one in enumerate(values)]
    return {**values, key: inner}


class Payload:
    """Executes code where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_payload_is_never_executed(tmp_path, capsule):
    victim = tmp_path / "victim"
    values = changed(capsule[1], "plan", Payload(victim))

    message = refusal(tampered(tmp_path, capsule, values))

    assert "cannot be read" in message
    assert not victim.exists()


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("plan.algorithm", "os.system", "not one that Esper rebuilds"),
        ("plan.policy", "subprocess.Popen", "not one that Esper rebuilds"),
        ("plan.arguments.activation_fn", "builtins.eval", "not a class that Esper rebuilds"),
        ("plan.arguments.optimizer_class", "torch.hub.load", "not a class that Esper rebuilds"),
        ("plan.arguments.features_extractor_class", "os.remove", "not a class that Esper rebuilds"),
        ("plan.arguments.net_arch", [10**6, 10**6], "larger than its weights"),
        ("plan.arguments.net_arch", [8] * 1000, "more than 100 layers"),
        ("plan.arguments.net_arch", [-8], "cannot be built"),
        ("plan.arguments.net_arch", [9], "cannot be built"),
        ("plan.n_steps", 10**9, "more than 10000 minibatches"),
        ("plan.batch_size", 0, "at least 1"),
        ("plan.n_envs", 10**6, "more than 10000 minibatches"),
        ("plan.n_epochs", 10**6, "more than 10000 minibatches"),
        ("plan.observation_space.shape", [10**9], "not one that Esper rebuilds"),
        ("plan.observation_space.shape", [5], "do not fit the observation space"),
        ("plan.observation_space.kind", "Graph", "not one that Esper rebuilds"),
        ("plan.action_space.sizes", [2**40], "larger than its weights"),
        ("plan.action_space.sizes", [10**8], "larger than its weights"),
        ("plan.action_space.sizes", [2, 2], "do not fit the action space"),
        ("plan.unknown", 1, "does not describe an algorithm"),
        ("plan.gamma", "high", "does not describe an algorithm"),
        ("data.advantages", torch.zeros(7), "must have one value for each step"),
        ("data.actions", torch.zeros(7), "do not fit the action space"),
        ("data.observations", torch.zeros(3), "do not fit the observation space"),
        ("data.rewards", [1.0], "are not tensors"),
        ("start.weights", [], "optimizer of its policy are missing"),
        ("start.weights.0", {"action_net.weight": torch.zeros(3)}, "cannot be built"),
        ("start.optimizers.0.state", {0: 1}, "is incomplete"),
        ("start.optimizers.0.state", {0: {"step": torch.zeros(1000)}}, "does not fit"),
        ("start.optimizers.0.groups", [], "cannot be built"),
        ("start.random", {}, "random generators"),
        ("start.random.torch", torch.zeros(3), "random generators"),
        ("threads", 10**9, "threads are unknown"),
        ("phase", "hosts", "its phase"),
        ("rebuilder", "pickle", "does not know 'pickle'"),
        ("minibatch", "2", "must be a int"),
        ("sightings", [{"head": 3}], "is damaged"),
        ("format", "watched run 2", "another format"),
        ("more", 1, "unknown part: more"),
    ],
)  # fmt: skip
def test_a_tampered_capsule_is_refused_in_one_sentence(path, value, expected, tmp_path, capsule):
    folder = tampered(tmp_path, capsule, changed(capsule[1], path, value))

    assert expected in refusal(folder)


def test_damaged_and_missing_files(tmp_path, capsule):
    folder = tampered(tmp_path, capsule, capsule[1])
    (folder / CAPSULE_NAME).write_bytes((folder / CAPSULE_NAME).read_bytes()[:-1])
    assert "SHA-256" in refusal(folder)

    (folder / SUMMARY_NAME).unlink()
    assert SUMMARY_NAME in refusal(folder)


def test_other_versions_are_remarked(tmp_path, capsule):
    values = changed(capsule[1], "versions.torch", "1.0")
    folder = tampered(tmp_path, capsule, values)

    replay = replay_incident(folder, str(folder), None, update=None, progress=NoProgress()).replay

    assert (replay.verdict, replay.differences) == (REPRODUCED, ())
    assert [text for text in replay.remarks if text.startswith("recorded with torch 1.0")]
