"""esper grow with everything: small sets, finishing, limits, and why the policy decided so."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from esper.cli import main
from esper.growth.environment.observation import FEATURES
from esper.growth.export.module_files import load_module
from esper.leyline.heads import BLUEPRINT_CHOICES, HEAD_NAMES, Op
from esper.services.policies import find_policy
from esper.simic.evaluation.plans import PlannedSeed
from esper.simic.growing import decisions
from esper.simic.growing.growth import grow
from esper.simic.growing.growth_card import growth_card, growth_summary
from esper.simic.growing.records import Grown
from esper.simic.growing.writing import write_checked, write_onnx_checked
from esper.simic.requests import GrowingError, Limits


@pytest.fixture(scope="module", autouse=True)
def _short() -> Iterator[None]:
    """Make runs short, and look for the most frequent plan in one host."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("esper.simic.growing.finishing._SHORTEST", 12)
        patched.setattr("esper.simic.growing.finishing._LONGEST", 12)
        patched.setattr("esper.simic.growing.finishing._DOUBLINGS", 1)
        patched.setattr("esper.simic.growing.decisions._HOSTS", 1)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Signals of three classes of unequal size, 36 for training as in ArrowHead."""
    generator = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [20, 10, 6])
    x = generator.normal(size=(36, 24)) + 2 * np.sin(np.linspace(0, 6, 24) * (1 + y[:, None]))
    path = tmp_path_factory.mktemp("data") / "few.npz"
    np.savez(path, x=x, y=y, x_test=x[::2], y_test=y[::2])
    return f"npz:{path}?kind=signal"


def grown_on(
    data: str, *, steps: int = 6, finishes: bool = True, limits: Limits | None = None
) -> tuple[Grown, list[str]]:
    """Return what the shipped policy grows, and the lines of progress."""
    lines: list[str] = []
    grown = grow(
        find_policy(Path("runs"), "shipped"),
        data,
        num_hosts=1,
        rng_seed=0,
        steps=steps,
        limits=limits,
        finishes=finishes,
        say=lines.append,
    )
    return grown, lines


@pytest.fixture(scope="module")
def few(data: str) -> tuple[Grown, list[str]]:
    """The networks of a small set."""
    return grown_on(data)


def test_a_small_set_is_folded_and_its_networks_are_compared(
    few: tuple[Grown, list[str]],
) -> None:
    grown, lines = few
    assert lines[0].endswith("54 signals of length 24; 3 classes")
    assert "growing 1 network in each of 5 folds, drawn twice, 6 steps" in lines
    comparison = grown.comparison
    assert comparison is not None
    kinds = [each.kind for each in comparison.candidates]
    assert kinds[:2] == ["grown", "host"]
    assert kinds[-1] == "plain"
    assert (comparison.folds, comparison.repeats) == (5, 2)
    assert 1 <= comparison.grown_alike <= 10
    sizes = {each.kind: each.size for each in comparison.candidates}
    assert sizes["host"].parameters <= sizes["grown"].parameters
    assert sizes["plain"].parameters <= sizes["grown"].parameters
    for each in comparison.candidates:
        assert each.finished.hits.shape == (36,)
        assert each.seconds > 0
    card = growth_card(grown, 0.0)
    assert "mean over 5 stratified folds drawn twice of 36 samples" in card
    assert f"**This is {comparison.reason}.**" in card
    assert card.count(": this network** |") == 1
    summary = growth_summary(grown)
    assert summary.count("(written)") == 1
    assert f"written: {comparison.reason}" in summary


@pytest.mark.parametrize("kind", ["grown", "host", "scratch", "plain"])
def test_every_kind_of_network_can_be_written(
    few: tuple[Grown, list[str]], kind: str, tmp_path: Path
) -> None:
    grown, _ = few
    comparison = grown.comparison
    assert comparison is not None
    found = [each for each in comparison.candidates if each.kind == kind]
    if not found:
        pytest.skip("the policy fossilized no seed")
    finished = found[0].finished
    made = replace(
        grown,
        portable=finished.portable,
        logits=finished.logits,
        comparison=replace(comparison, chosen=found[0]),
    )
    assert write_checked(made, tmp_path) < 1e-4
    task = grown.task
    samples = task.raw(task.test)
    logits = load_module(tmp_path)(samples)
    right = (logits.argmax(1) == task.test.labels).double().mean().item()
    assert right == pytest.approx(finished.test_accuracy)
    assert sum(p.numel() for p in load_module(tmp_path).parameters()) == found[0].size.parameters
    title = (
        "# A network grown on few\n" if kind in ("grown", "scratch") else "# A network for few\n"
    )
    card = growth_card(made, 0.0)
    assert card.startswith(title)
    assert ("which was not written" in card) == (kind in ("host", "plain"))
    if kind in ("grown", "plain"):
        assert write_onnx_checked(made, tmp_path) < 1e-3
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        (outputs,) = session.run(["logits"], {"inputs": samples.float().numpy()})
        torch.testing.assert_close(torch.from_numpy(outputs), logits.detach(), rtol=1e-3, atol=1e-3)


def test_the_command_writes_the_comparison(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ("--max-parameters", "900", "--price", "0.02", "--steps", "3")
    with pytest.raises(SystemExit) as ended:
        main(("grow", "--task", data, "--out", str(out), *options))
    output = capsys.readouterr()
    assert ended.value.code == 0, output.err
    assert "(written)" in output.out
    card = (out / "card.md").read_text()
    rows = re.findall(r"^\| \*\*.*this network\*\* \| ([\d,]+) \|", card, re.M)
    assert int(rows[0].replace(",", "")) <= 900


@pytest.mark.parametrize(
    ("limit", "most"), [("parameters", 600), ("bytes", 2400), ("multiply_adds", 3500)]
)
def test_a_limit_holds_while_a_network_grows(data: str, limit: str, most: int) -> None:
    free, _ = grown_on(data, finishes=False, steps=10)
    limited, _ = grown_on(data, finishes=False, steps=10, limits=Limits(**{limit: most}))
    assert free.network.seeds
    assert free.network.parameters > limited.network.parameters
    size = {"parameters": limited.portable.parameters, "bytes": limited.portable.bytes}
    if limit in size:
        assert size[limit] <= most
    assert limited.notes[0].endswith("a seed that would exceed it was ruled out")
    assert "Limit: " in growth_card(limited, 0.0)


def test_a_host_that_exceeds_a_limit_is_refused(data: str) -> None:
    with pytest.raises(GrowingError, match=r"has \d+ parameters, more than 50 even without growth"):
        grown_on(data, limits=Limits(parameters=50))


def test_little_time_shortens_growing(data: str) -> None:
    grown, lines = grown_on(data, limits=Limits(minutes=1e-4))
    assert grown.steps == 1
    assert "--minutes 0.0001 left time for 1 of 6 steps of growing" in lines
    assert grown.comparison is not None
    assert re.search(
        r"^limit: --minutes 0.0001 left no time to finish", growth_summary(grown), re.M
    )


def test_the_card_tells_each_decision_and_its_probability(few: tuple[Grown, list[str]]) -> None:
    grown, _ = few
    recorded = grown.episode.recorded
    rows = [line for line in grown.decisions if re.match(r"\| \d+ \|", line)]
    assert len(rows) == len(decisions._decisions(recorded)) > 0
    for row in rows:
        assert 0.0 <= float(row.split("|")[3]) <= 1.0
    text = growth_card(grown, 0.0)
    assert "## What the policy decided, and why" in text
    assert "What the policy does most often, in " in text


def test_a_decision_that_differs_from_the_plan_is_explained(
    few: tuple[Grown, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    grown, _ = few
    recorded = grown.episode.recorded
    germinations = [
        step
        for step in decisions._decisions(recorded)
        if recorded.actions[step, HEAD_NAMES.index("op")] == Op.GERMINATE
    ]
    choice = dict(zip(HEAD_NAMES, recorded.actions[germinations[0]].tolist(), strict=True))
    other = (choice["blueprint"] + 1) % len(BLUEPRINT_CHOICES)
    seed = PlannedSeed(
        choice["slot"], other, choice["style"], choice["tempo"], choice["alpha_target"]
    )
    usual = np.zeros((3, len(FEATURES)), dtype=np.float32)
    habit = decisions.Habit((seed,), 5, 8, "elsewhere", usual)
    monkeypatch.setattr(decisions, "habit_of", lambda *_: habit)
    lines = decisions.decision_lines(grown.policy, grown.episode, torch.device("cpu"), grown.task)
    assert lines[0].startswith(
        "What the policy does most often, in 5 of 8 other hosts on elsewhere"
    )
    (sentence,) = [
        line
        for line in lines
        if f"the plan has {BLUEPRINT_CHOICES[other]}. Probability of blueprint" in line
    ]
    assert sentence.startswith(f"- Step {germinations[0] + 1}, GERMINATE slot ")
    figures = [feature.name for feature in FEATURES]
    (name,) = re.findall(r"largest influence is `([\w.]+)`", sentence)
    assert name in figures
    assert "progress" not in name
    assert re.search(r"so (this figure decided|they decided together|none decided)\.$", sentence)


def test_the_probability_in_the_card_is_that_of_acting(few: tuple[Grown, list[str]]) -> None:
    grown, _ = few
    recorded = grown.episode.recorded
    usual = np.zeros((1, len(FEATURES)), dtype=np.float32)
    reading = decisions._read(grown.policy, recorded, usual, torch.device("cpu"))
    op = HEAD_NAMES.index("op")
    for step in range(len(recorded.actions)):
        total = sum(reading.probability(step, "op", choice) for choice in range(len(Op)))
        assert total == pytest.approx(1.0, abs=1e-5)
        assert reading.probability(step, "op", int(recorded.actions[step, op])) > 0
        # the heads but op take their likeliest choice
        own = int(recorded.actions[step, HEAD_NAMES.index("blueprint")])
        if recorded.actions[step, op] == Op.GERMINATE:
            every = [
                reading.probability(step, "blueprint", n) for n in range(len(BLUEPRINT_CHOICES))
            ]
            assert every[own] == max(every)
