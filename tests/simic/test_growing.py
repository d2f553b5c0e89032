"""esper grow: from a policy and the user's data to a network that needs only torch."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from esper.cli import EXIT_CODE_FAULT, main
from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.export.module_files import load_module, logits_of
from esper.growth.tasks.loading import load_task
from esper.leyline.heads import SLOT_CHOICES, Stage
from esper.services.policies import find_policy
from esper.simic import requests
from esper.simic.config import updated
from esper.simic.environment import make_environment
from esper.simic.evaluation.arena import evaluation_seeds
from esper.simic.growing import growth as growing
from esper.simic.growing.growth import grow
from esper.simic.growing.growth_card import growth_card, growth_summary
from esper.simic.growing.growth_picture import growth_picture
from esper.simic.growing.records import Grown, Measured
from esper.simic.growing.writing import write_checked
from esper.simic.requests import GrowingError

STEPS = 12
Grow = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run, of a policy that has learnt next to nothing."""
    folder = tmp_path_factory.mktemp("runs")
    options = ("--episodes", "2", "--envs", "2", "--steps", str(STEPS), "--minibatches", "1")
    with pytest.raises(SystemExit) as ended:
        main(("ppo", "--run-dir", str(folder), "--no-sanctum", "--task", "digits", *options))
    assert ended.value.code == 0
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """User data: noisy waves of three shapes, with labels as words."""
    generator = np.random.default_rng(0)
    turns = np.linspace(0, 6, 40) + generator.uniform(0, 6, (400, 1))
    shapes = np.stack([np.sin(turns), np.sign(np.sin(turns)), np.zeros_like(turns)])
    y = generator.integers(3, size=400)
    x = 50 + 7 * (shapes[y, np.arange(400)] + 0.3 * generator.normal(size=(400, 40)))
    path = tmp_path_factory.mktemp("data") / "waves.npz"
    np.savez(path, x=x, y=np.array(["sine", "square", "silence"])[y])
    return f"npz:{path}?kind=signal"


@pytest.fixture(scope="module")
def grown(runs: Path, data: str) -> Grown:
    """The best of six networks on that data."""
    policy = find_policy(runs, None)
    return grow(
        policy, data, num_hosts=6, rng_seed=3, steps=None, finishes=False, say=lambda _: None
    )


def with_result(grown: Grown, result: Measured, **changes: Any) -> Grown:
    """Return a network with another result when growing ended."""
    return replace(grown, episode=replace(grown.episode, result=result), **changes)


@pytest.fixture(autouse=True)
def _few_other_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for the policy's most frequent plan in one host, which takes less time."""
    monkeypatch.setattr("esper.simic.growing.decisions._HOSTS", 1)


@pytest.fixture
def command(runs: Path, capsys: pytest.CaptureFixture[str]) -> Grow:
    """Runs `esper grow` without finishing: exit code, output, errors."""

    def command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(("grow", "--run-dir", str(runs), "--policy", "2", "--no-finish", *arguments))
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return command


def test_a_network_is_written_that_runs_with_torch_alone(
    command: Grow, data: str, tmp_path: Path
) -> None:
    out = tmp_path / "a" / "network"
    code, output, errors = command("--task", data, "--out", str(out), "--hosts", "3")
    assert code == 0, errors
    names = {file.name for file in out.iterdir()}
    assert names == {"model.py", "weights.safetensors", "card.md", "growth.svg"}
    assert "grown network" in output
    assert output.count(" in validation, ") == 4
    snippet = re.findall(r"```python\n(.*?)```", (out / "card.md").read_text(), re.S)[0]
    refuse = "import sys; sys.modules['esper'] = sys.modules['safetensors'] = None\n"
    result = subprocess.run(
        [sys.executable, "-c", refuse + snippet], cwd=out, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() in ("sine", "square", "silence")


def test_a_table_becomes_an_onnx_file_that_runs_without_torch(
    command: Grow, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    y = np.arange(300) % 2
    x = generator.normal(size=(300, 4)) + y[:, None]
    rows = [
        ",".join(map(str, [*row, ("cat", "dog")[label]])) for row, label in zip(x, y, strict=True)
    ]
    (tmp_path / "pets.csv").write_text("\n".join(["a,b,c,d,label", *rows]))
    out = tmp_path / "network"
    task = f"csv:{tmp_path / 'pets.csv'}"
    code, output, errors = command("--task", task, "--out", str(out), "--onnx", "--steps", "3")
    assert code == 0, errors
    assert "wrote card.md, growth.svg, model.onnx, model.py" in output
    assert "`model.onnx` is the same network" in (out / "card.md").read_text()
    program = (
        "import sys; sys.modules['torch'] = sys.modules['esper'] = None\n"
        "import numpy as np, onnxruntime\n"
        "session = onnxruntime.InferenceSession('model.onnx')\n"
        "x = np.array([[3, 3, 3, 3], [-2, -2, -2, -2], [3, 3, 3, 3]], dtype=np.float32)\n"
        "print(session.run(['logits'], {'inputs': x})[0].argmax(1).tolist())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=out, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[1, 0, 1]"


def test_onnx_without_its_extra_is_refused_before_anything_is_trained(
    command: Grow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = requests.find_spec
    monkeypatch.setattr(
        requests, "find_spec", lambda name: None if name == "onnxruntime" else known(name)
    )
    code, _, errors = command("--task", "digits", "--out", str(tmp_path / "new"), "--onnx")
    assert code == 2
    assert "--onnx needs the onnx extra (onnxruntime is not installed): " in errors
    assert not (tmp_path / "new").exists()


def test_the_written_module_equals_the_grown_network(grown: Grown, tmp_path: Path) -> None:
    difference = write_checked(grown, tmp_path)
    assert difference < 1e-4
    module, test = load_module(tmp_path), grown.task.test
    logits = logits_of(module, grown.task.raw(test))
    right = (logits.argmax(1) == test.labels).double().mean().item()
    assert right == pytest.approx(grown.result.test_accuracy)
    assert sum(p.numel() for p in module.parameters()) == grown.result.parameters


def test_the_module_takes_raw_samples(grown: Grown, data: str, tmp_path: Path) -> None:
    write_checked(grown, tmp_path)
    module = load_module(tmp_path)
    stored = np.load(data.removeprefix("npz:").partition("?")[0])
    inputs, labels = torch.from_numpy(stored["x"]), stored["y"]
    with torch.no_grad():
        predicted = np.array(grown.task.class_names)[module(inputs).argmax(1).numpy()]
        assert (module(inputs) - module(inputs.float())).abs().max() < 1e-3
    parts = (grown.task.train, grown.task.validation, grown.task.test)
    assert len(predicted) == sum(len(part) for part in parts)
    assert (predicted == labels).mean() > 0.5


def test_the_best_by_validation_is_chosen(grown: Grown) -> None:
    assert len(grown.rivals) == 6
    assert grown.result.validation_accuracy == grown.rivals[grown.host] == grown.rivals.max()
    assert len(grown.moments) == len(grown.idle_accuracy) == STEPS + 1
    final = {
        SLOT_CHOICES[slot] for slot in np.flatnonzero(grown.moments[-1].stage == Stage.FOSSILIZED)
    }
    assert {seed.slot for seed in grown.network.seeds} == final


def test_without_growth_is_the_same_host_without_actions(grown: Grown, data: str) -> None:
    config = updated(grown.policy.config, {"task": data})
    env = make_environment(config, 6, torch.device("cpu"))
    _, info = env.reset(seed=evaluation_seeds(3, 6))
    host = grown.host
    assert info["accuracy"][host] == grown.moments[0].accuracy == grown.idle_accuracy[0]
    for _ in range(STEPS):
        *_, info = env.step(np.zeros((6, 8), dtype=np.int64))
    idle = grown.without_growth
    assert idle.parameters == env.host_parameters
    assert idle.validation_accuracy == info["accuracy"][host]
    assert idle.test_accuracy == env.test_accuracy()[host]


def test_the_same_random_seed_grows_the_same_network(
    command: Grow, data: str, tmp_path: Path
) -> None:
    weights = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        options = ("--task", data, "--out", str(tmp_path / name), "--seed", seed, "--steps", "2")
        assert command(*options)[0] == 0
        weights.append((tmp_path / name / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_the_card_has_the_results(grown: Grown) -> None:
    card = growth_card(grown, 1e-6)
    assert f"{grown.result.test_accuracy:.3f}" in card
    assert f"{grown.without_growth.test_accuracy:.3f}" in card
    assert f"{grown.from_scratch.test_accuracy:.3f}" in card
    assert "best of 6 networks by validation accuracy" in card
    title = "grown on" if grown.network.seeds else "for"
    assert card.startswith(f"# A network {title} waves\n")
    assert "/" not in card.partition("## How to use it")[0].replace("growth.svg", "")
    germinated = sum(
        each.to_stage == Stage.GERMINATED for moment in grown.moments for each in moment.happened
    )
    assert card.count("| germinated |") == germinated


@pytest.mark.parametrize(
    ("without", "is_reported"),
    [(0.61, True), (0.6, True), (0.59, False)],
    ids=["worse", "as", "better"],
)
def test_growth_that_did_not_help_is_reported(
    grown: Grown, without: float, is_reported: bool
) -> None:
    made = with_result(
        grown,
        Measured(900, 0.6, 0.6, 1e6),
        without_growth=Measured(400, without, 0.7, 1e6),
    )
    card, summary = growth_card(made, 1e-6), growth_summary(made)
    warning = (
        f"Growth did not help here: validation accuracy is {without:.3f} without it and 0.600 in "
        f"the grown network. The policy `{made.policy.name}` was trained on digits; train one on "
        "this"
    )
    assert (warning in card) == (warning in summary.splitlines()[-1]) == is_reported
    assert ("did not help" in card + summary) == is_reported
    at_home = replace(made, task=replace(made.task, name="digits"))
    assert ("did not help" in growth_summary(at_home)) == is_reported
    assert "was trained on" not in growth_card(at_home, 1e-6) + growth_summary(at_home)


def test_a_network_no_better_than_the_largest_class_is_reported(grown: Grown) -> None:
    warning = "This network is no better in validation than always predicting the largest class."
    share = grown.task.validation.largest_class
    for accuracy, is_reported in ((share - 0.01, True), (share, True), (share + 0.01, False)):
        made = with_result(grown, Measured(900, accuracy, 0.6, 1e6))
        assert (warning in growth_card(made, 1e-6)) == is_reported
        assert (warning in growth_summary(made).splitlines()) == is_reported
    (row,) = [row for row in growth_summary(grown).splitlines() if row.startswith("largest class")]
    test_share = grown.task.test.largest_class
    assert row.endswith(f"accuracy {share:.3f} in validation, {test_share:.3f} in test")


def test_writing_is_tried_before_training(
    command: Grow, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the module differs")

    def no_step(*_: object) -> None:
        pytest.fail("a step was trained")

    monkeypatch.setattr("esper.simic.growing.writing.write_portable", broken)
    monkeypatch.setattr("esper.growth.environment.env.GrowthVectorEnv.step", no_step)
    code, _, errors = command("--task", data, "--out", str(tmp_path / "out"))
    assert code == EXIT_CODE_FAULT
    assert errors.rstrip().endswith("RuntimeError: the module differs")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["write_checked", "growth_card", "growth_picture"])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_failure_leaves_the_folder_empty(
    command: Grow,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    is_there: bool,
) -> None:
    out = tmp_path / "a" / "out"
    if is_there:
        out.mkdir(parents=True)
    module = "esper.simic.growing." + ("writing" if name == "write_checked" else "growth_card")

    def broken(*_: object) -> None:
        if name == "write_checked":
            (out / "model.py").write_text("half of it")
        raise OSError(28, "No space left on device")

    options = ("--task", data, "--out", str(out), "--steps", "1")
    with monkeypatch.context() as patched:
        patched.setattr(f"{module}.{name}", broken)
        code, output, errors = command(*options)
    assert (code, output) == (2, "")
    assert errors.splitlines()[-1] == f"esper: cannot write into {out}: No space left on device"
    assert out.exists() == is_there
    assert (tmp_path / "a").exists() == is_there
    assert command(*options)[0] == 0


def test_coordinates_in_metres_grow_a_network(command: Grow, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    y = numbers.integers(3, size=400)
    north = 5_820_000 - 25.0 * y + 8 * numbers.normal(size=400)
    x = np.stack([north, 1.79e9 + 25.0 * y + 8 * numbers.normal(size=400)], axis=1)
    np.savez(tmp_path / "utm.npz", x=x, y=y)
    out = tmp_path / "out"
    code, _, errors = command("--task", f"npz:{tmp_path / 'utm.npz'}", "--out", str(out))
    assert code == 0, errors
    with torch.no_grad():
        predicted = load_module(out)(torch.from_numpy(x)).argmax(1).numpy()
    assert (predicted == y).mean() > 0.9


def test_one_step_is_singular(command: Grow, tmp_path: Path) -> None:
    options = ("--task", "digits", "--out", str(tmp_path / "out"), "--steps", "1")
    code, output, errors = command(*options)
    assert code == 0, errors
    assert errors.startswith("digits: 1,797 images of 8x8; 10 classes\n")
    assert "growing 1 network, 1 step\n" in errors
    assert "grew on digits in 1 step: " in output
    assert "in 1 step of" in (tmp_path / "out" / "card.md").read_text()


def test_the_ticks_of_a_flat_curve_differ(grown: Grown) -> None:
    flat = tuple(replace(moment, accuracy=1.0) for moment in grown.moments)
    episode = replace(grown.episode, moments=flat)
    made = replace(grown, episode=episode, idle_accuracy=(1.0,) * len(flat))
    ticks = re.findall(r">(\d\.\d\d)</text>", growth_picture(made))
    assert ticks == ["0.97", "0.98", "0.99", "1.00"]


def test_the_pictures_ticks_are_round_and_both_curves_are_seen(grown: Grown) -> None:
    root = ElementTree.fromstring(growth_picture(grown))
    space = "{http://www.w3.org/2000/svg}"
    texts = [text.text or "" for text in root.iter(f"{space}text")]
    ticks = [float(text) for text in texts if re.fullmatch(r"\d\.\d\d", text)]
    assert 2 <= len(ticks) <= 6
    step = ticks[1] - ticks[0]
    assert f"{step:.2f}" in ("0.01", "0.02", "0.05", "0.10", "0.20")
    for tick in ticks:
        assert tick / step == pytest.approx(round(tick / step))
    # What is drawn last is on top: a line without gaps must leave the dashes' edges to be seen.
    dashed, solid = root.iter(f"{space}polyline")
    assert "stroke-dasharray" in dashed.attrib
    assert "stroke-dasharray" not in solid.attrib
    assert float(dashed.attrib["stroke-width"]) >= 2 * float(solid.attrib["stroke-width"])


def test_the_picture_is_well_formed_and_shows_every_slot(grown: Grown) -> None:
    root = ElementTree.fromstring(growth_picture(grown))
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert set(SLOT_CHOICES) <= texts
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 2
    assert {seed.blueprint for seed in grown.network.seeds} <= texts


def test_a_network_of_text_runs_its_own_snippet(command: Grow, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text('it is what it is, "said" the cat\n' * 60)
    out = tmp_path / "out"
    options = ("--task", f"chars:{tmp_path / 't.txt'}?context=9", "--out", str(out))
    code, _, errors = command(*options, "--steps", "1")
    assert code == 0, errors
    snippet = re.findall(r"```python\n(.*?)```", (out / "card.md").read_text(), re.S)[0]
    result = subprocess.run(
        [sys.executable, "-c", snippet], cwd=out, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.rstrip("\n") or "\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--out", "new"), "the following arguments are required: --task"),
        (("--task", "digits"), "the following arguments are required: --out"),
        (("--task", "mnist", "--out", "new"), "there is no task 'mnist'"),
        (("--task", "npz:absent.npz", "--out", "new"), "there is no file absent.npz"),
        (("--task", "digits", "--out", "new", "--policy", "none"), "there is no run 'none'"),
        (("--task", "digits", "--out", "new", "--hosts", "0"), "--hosts must be 1 to 256, not 0"),
        (("--task", "digits", "--out", "new", "--seed", "-1"), "--seed must be 0 or more, not -1"),
        (("--task", "digits", "--out", "new", "--steps", "0"), "steps must be at least 1, not 0"),
        (("--task", "digits", "--out", "full"), "full is not empty: it contains something"),
        (("--task", "digits", "--out", "file"), "cannot write into file: File exists"),
    ],
)
def test_bad_input_gets_one_sentence(
    command: Grow,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    code, output, errors = command(*arguments)
    assert (code, output) == (2, "")
    assert words in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert not (tmp_path / "new").exists()


def test_growing_checks_its_arguments(runs: Path) -> None:
    with pytest.raises(GrowingError, match="--hosts must be 1 to 256, not 300"):
        grow(
            find_policy(runs, None),
            "digits",
            num_hosts=300,
            rng_seed=0,
            steps=1,
            finishes=False,
            say=lambda _: None,
        )


def test_a_policy_is_trained_on_user_data(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(data.removeprefix("npz:").partition("?")[0])
    monkeypatch.chdir(path.parent)
    options = ("--episodes", "1", "--steps", "1", "--task", "npz:waves.npz?kind=signal")
    with pytest.raises(SystemExit) as ended:
        main(("ppo", "--run-dir", str(tmp_path), "--no-sanctum", *options))
    assert ended.value.code == 0
    monkeypatch.chdir("/")
    policy = find_policy(tmp_path, None)
    assert policy.name.endswith("-waves")
    assert policy.config.task == f"npz:{path}?kind=signal"
    assert load_task(policy.config.task).name == policy.config.task


def test_bad_data_stops_training_before_there_is_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "bad.npz", x=np.full((300, 4), np.nan), y=np.arange(300) % 2)
    with pytest.raises(SystemExit) as ended:
        main(("ppo", "--run-dir", str(tmp_path / "runs"), "--task", f"npz:{tmp_path}/bad.npz"))
    assert ended.value.code == 2
    assert "300 samples with missing or non-finite values" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def spoil_at_the_end(monkeypatch: pytest.MonkeyPatch, hosts: list[int]) -> None:
    """Break the first weight of some hosts before the last step that `grow` takes."""

    def make(*arguments: Any) -> GrowthVectorEnv:
        env = make_environment(*arguments)
        step, taken = env.step, []

        def poisoned(actions: np.ndarray) -> Any:
            taken.append(None)
            if len(taken) == env.steps:
                population = env._cohort.population
                population.state[0, population.host_columns(np.array(hosts))[:, 0]] = torch.nan
            return step(actions)

        monkeypatch.setattr(env, "step", poisoned)
        return env

    monkeypatch.setattr(growing, "make_environment", make)


def test_a_network_that_is_not_finite_is_never_the_best(
    runs: Path, data: str, grown: Grown, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_at_the_end(monkeypatch, [grown.host])
    lines: list[str] = []
    policy = find_policy(runs, None)
    done: list[float] = []
    other = grow(
        policy,
        data,
        num_hosts=6,
        rng_seed=3,
        steps=None,
        finishes=False,
        say=lines.append,
        report=lambda _, fraction: done.append(fraction),
    )
    assert len(done) == 3 * other.steps
    assert done == sorted(done)
    assert done[-1] == pytest.approx(1.0)
    assert other.host != grown.host
    assert other.rivals[grown.host] == 0.0
    assert other.result.validation_accuracy == max(other.rivals)
    assert any(line.startswith("1 network ended with NaN or Inf") for line in lines)


def test_no_network_is_written_where_none_is_finite(
    runs: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_at_the_end(monkeypatch, [0, 1])
    with pytest.raises(GrowingError, match=r"2 networks grew .* every one ended with NaN or Inf"):
        grow(find_policy(runs, None), data, num_hosts=2, rng_seed=3, steps=2, say=lambda _: None)
