"""Evaluation: seeds that training cannot reach, the same for everybody, the same every time."""

import contextlib
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict
from rich.console import Console

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.environment.observation import FEATURES
from esper.leyline.files.checkpoint_file import CheckpointError
from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES, Op
from esper.simic.config import TrainingConfig
from esper.simic.evaluation import arena as evaluation
from esper.simic.evaluation import (
    baseline_names,
    baselines,
    contest,
    evaluation_plot,
    evaluation_report,
    searches,
    static_opponents,
)
from esper.simic.evaluation.arena import Arena, evaluation_seeds
from esper.simic.evaluation.baseline_names import (
    BASELINES,
    MissingSearchLibraryError,
    UnknownBaselineError,
    parse_baselines,
)
from esper.simic.evaluation.baselines import random_player, run_baseline
from esper.simic.evaluation.contest import Evaluation, evaluate
from esper.simic.evaluation.contestants import Agents, Contestant
from esper.simic.evaluation.evaluation_plot import frontier
from esper.simic.requests import EvaluationError
from esper.simic.training.checkpoint import latest_checkpoint, load_checkpoint
from esper.simic.training.collecting import episode_seeds
from esper.simic.training.trained_policy import TrainedPolicy, load_trained_policy
from esper.tamiyo.heuristic import Rule
from esper.tamiyo.policy import RecurrentPolicy

CONFIG = TrainingConfig(task="digits", steps=5, feature_size=8, lstm_size=8, device="cpu")
SEED = st.integers(0, 2**40)


def trained(name: str = "run", weights: int = 0, **settings: Any) -> TrainedPolicy:
    torch.manual_seed(weights)
    config = TrainingConfig(**{**asdict(CONFIG), **settings})
    policy = RecurrentPolicy(len(FEATURES), feature_size=8, lstm_size=8)
    return TrainedPolicy(name, policy, config, episodes=4)


@pytest.fixture(scope="module")
def few_rivals() -> Any:
    """Few rules and fixed networks, so that a contest takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        rules = {"a conv early": Rule(trial=0.0), "norms": Rule(("norm",) * 3, trial=0.0)}
        patch.setattr(baselines, "HAND_RULES", rules)
        real = static_opponents.static_shapes
        for module in (static_opponents, searches):
            patch.setattr(module, "static_shapes", lambda *args: real(*args)[:4])
        for module in (static_opponents, baselines):
            patch.setattr(module, "PACES", baselines.PACES[1:3])
        patch.setattr(baselines, "LEARNING_RATES", (0.02,))
        patch.setattr(evaluation, "LOCKSTEP", 4)
        yield


@pytest.fixture(scope="module")
def contest_reports(few_rivals: None) -> tuple[Evaluation, list[str], list[tuple[str, float]]]:
    """A whole contest of two policies, in batches of 4 and 2 episodes, and what it reported."""
    policies = [trained("first"), trained("second", weights=1)]
    lines: list[str] = []
    progress: list[tuple[str, float]] = []
    result = evaluate(
        policies,
        episodes=6,
        against=BASELINES,
        rng_seed=3,
        say=lines.append,
        report=lambda what, done: progress.append((what, done)),
    )
    return result, lines, progress


@pytest.fixture(scope="module")
def result(contest_reports: tuple[Evaluation, list[str], list[tuple[str, float]]]) -> Evaluation:
    """The results of the contest."""
    return contest_reports[0]


def test_an_evaluation_reports_each_run_the_number_left_and_the_results(
    contest_reports: tuple[Evaluation, list[str], list[tuple[str, float]]],
) -> None:
    result, lines, progress = contest_reports
    turns = [line for line in lines if line.startswith("[")]
    assert turns[0] == "[1 of 34] agent: first"
    assert turns[2] == "[3 of 34] none: nothing grows"
    assert [line.split()[0] for line in turns] == [f"[{number}" for number in range(1, 35)]
    ends = [line for line in lines if line.startswith("    test accuracy")]
    assert len(ends) == 30, "two searches, and two for the plans of the agent, have no results"
    none = result.entries[1].contestant.strata[0]
    assert ends[2] == (
        f"    test accuracy {none.test_accuracy.mean():.3f} (largest class "
        f"{result.largest_class:.3f}), score {none.score.mean():.3f}; 31 left"
    )
    done = [fraction for _, fraction in progress]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0.0, 1.0)
    assert len([what for what, _ in progress if what == "agent: first"]) >= 2 * CONFIG.steps


@given(run_seed=SEED, seed=SEED, first=st.integers(1, 10**9))
def test_training_never_uses_a_random_seed_of_evaluation(
    run_seed: int, seed: int, first: int
) -> None:
    ours = evaluation_seeds(seed, 8)
    assert len(set(ours)) == 8
    assert all(2**62 <= each < 2**63 for each in ours)
    assert all(0 <= each < 2**32 for each in episode_seeds(run_seed, first, 8, 4))
    assert ours == evaluation_seeds(seed, 12)[:8], "more episodes begin with the same ones"
    assert ours != evaluation_seeds(seed + 1, 8)


def test_all_contestants_have_the_same_episodes(result: Evaluation) -> None:
    names = [entry.contestant.name for entry in result.entries]
    assert [name for name in names if name not in ("same-cost", "heuristic-same-cost")] == [
        "agent",
        *BASELINES,
    ]
    assert len(names) == len(BASELINES) + 3
    for entry in result.entries:
        for outcomes in entry.contestant.strata:
            arrays = [value for value in vars(outcomes).values() if isinstance(value, np.ndarray)]
            assert [array.shape for array in arrays] == [(6,)] * 5
    arena = Arena(CONFIG, torch.device("cpu"), episodes=6, rng_seed=3)
    assert [len(batch) for batch in arena.batches] == [4, 2]
    assert [*arena.batches[0], *arena.batches[1]] == evaluation_seeds(3, 6)


def test_nothing_grows_without_actions(result: Evaluation) -> None:
    none = result.entries[1].contestant.strata[0]
    assert (none.parameters == result.host_parameters).all()
    np.testing.assert_allclose(none.score, none.validation_accuracy)


def test_a_network_that_grew_nothing_is_its_own_architecture(few_rivals: None) -> None:
    arena = Arena(CONFIG, torch.device("cpu"), episodes=3, rng_seed=0)
    nothing = arena.play("none", "nothing grows", baselines._wait)
    whole, cut = run_baseline("same-architecture", arena, Agents([], [nothing], [0]))
    for again in (whole.strata[0], cut.strata[0]):
        for name in ("test_accuracy", "score", "parameters", "multiply_adds"):
            np.testing.assert_array_equal(
                getattr(again, name), getattr(nothing.outcomes, name), err_msg=name
            )


def test_the_same_architecture_has_the_size_of_the_grown_network(result: Evaluation) -> None:
    agent, same, cut = (
        next(entry.contestant for entry in result.entries if entry.contestant.name == name)
        for name in ("agent", "same-architecture", "same-cost")
    )
    assert len(agent.strata) == len(same.strata) == 2
    for grown, again, paid in zip(agent.strata, same.strata, cut.strata, strict=True):
        np.testing.assert_array_equal(grown.parameters, again.parameters)
        a_step = again.multiply_adds / result.steps
        assert (abs(paid.multiply_adds - grown.multiply_adds) <= a_step / 2 + 1).all()


def by_name(result: Evaluation) -> dict[str, Contestant]:
    return {entry.contestant.name: entry.contestant for entry in result.entries}


def test_equal_cost_is_the_agents_cost_to_a_step(result: Evaluation) -> None:
    contestants = by_name(result)
    agent = np.mean([outcomes.multiply_adds for outcomes in contestants["agent"].strata])
    bare = contestants["none"].strata[0].multiply_adds[0] / result.steps
    paid = contestants["none-same-cost"].strata[0]
    assert (abs(paid.multiply_adds - agent) <= bare / 2 + 1).all()
    assert f"{paid.multiply_adds[0] / bare:.0f} steps" in paid.what
    shorter, longer = contestants["heuristic"], contestants["heuristic-same-cost"]
    for before, after in zip(shorter.candidates, longer.candidates, strict=True):
        assert after.what.startswith(before.what)
        assert abs(after.multiply_adds.mean() / agent - 1) < 0.3
        steps = int(after.what.removesuffix(" steps").rpartition(" ")[2])
        assert (steps > result.steps) == (before.multiply_adds.mean() < agent)


def test_a_search_spends_the_cost_of_training_the_agent(result: Evaluation) -> None:
    contestants = by_name(result)
    agent = contestants["agent"]
    cost = np.mean([outcomes.multiply_adds for outcomes in agent.strata])
    assert agent.search_multiply_adds == pytest.approx(4 * cost), "4 training episodes"
    for name in ("random-best", "halving"):
        spent = contestants[name].search_multiply_adds
        assert 4 * cost <= spent < 4 * cost + 5 * 4 * cost, "at most one trial too much"
    assert contestants["constant"].search_multiply_adds > agent.search_multiply_adds
    assert contestants["none"].search_multiply_adds == 0
    chosen = contestants["heuristic"]
    assert chosen.search_multiply_adds == sum(
        each.multiply_adds.sum() for each in chosen.candidates if each is not chosen.strata[0]
    )
    fixed = contestants["static"]
    tuning = sum(2 * 4 * each.multiply_adds[0] for each in fixed.candidates)  # paces, episodes
    others = sum(
        each.multiply_adds.sum() for each in fixed.candidates if each is not fixed.strata[0]
    )
    assert fixed.search_multiply_adds == pytest.approx(tuning + others)


def test_fewer_search_episodes_buy_a_shorter_search(few_rivals: None) -> None:
    result = evaluate(
        [trained()],
        episodes=2,
        against=("random-best",),
        rng_seed=0,
        search_episodes=1,
        say=lambda _: None,
    )
    agent, found = (entry.contestant for entry in result.entries)
    assert found.search_multiply_adds < agent.search_multiply_adds
    assert "best of 1 random plans" in found.strata[0].what


def test_the_best_candidate_is_reported_with_all_candidates(result: Evaluation) -> None:
    contestants = by_name(result)
    rule, fixed = contestants["heuristic"], contestants["static"]
    assert {each.what for each in rule.candidates} == {"a conv early", "norms"}
    assert rule.strata[0].score.mean() == max(each.score.mean() for each in rule.candidates)
    assert len(fixed.candidates) == 4
    tried = ("Adam 0.01 falling to 0", "Adam 0.02")
    assert all(each.what.endswith(tried) for each in fixed.candidates)
    assert fixed.strata[0].validation_accuracy.mean() == max(
        each.validation_accuracy.mean() for each in fixed.candidates
    )
    agent = np.median([outcomes.parameters for outcomes in contestants["agent"].strata])
    assert all(abs(each.parameters[0] / agent - 1) < 0.25 for each in fixed.candidates)
    sizes = sorted(each.parameters[0] / agent for each in fixed.resized)
    assert len(sizes) == 6
    assert sizes[0] < 0.7
    assert sizes[-1] > 1.6


def test_the_same_random_seed_gives_the_same_figures(few_rivals: None) -> None:
    def once(seed: int) -> dict[str, Any]:
        report = evaluate(
            [trained()],
            episodes=2,
            against=("none", "random", "same-architecture"),
            rng_seed=seed,
            say=lambda _: None,
        )
        return evaluation_report.evaluation_as_json(report)

    first = once(1)
    assert once(1) == first
    assert once(2)["contestants"] != first["contestants"]


def test_figures_do_not_depend_on_who_else_takes_part(result: Evaluation) -> None:
    policies = [trained("first"), trained("second", weights=1)]
    again = evaluate(policies, episodes=6, against=("random",), rng_seed=3, say=lambda _: None)
    by_names = {entry.contestant.name: entry.standings for entry in result.entries}
    assert {entry.contestant.name: entry.standings for entry in again.entries} == {
        name: by_names[name] for name in ("agent", "random")
    }


def test_random_choices_are_legal_and_uniform() -> None:
    legal = np.zeros((6000, len(Op), 3), dtype=bool)
    legal[:, Op.WAIT] = True
    legal[:, Op.GERMINATE, 1:] = True
    legal[:, Op.PRUNE, 0] = True
    actions = random_player(0)(6000, 0)(np.zeros((6000, 1)), {"slot_mask_by_op": legal})
    op, slot = (actions[:, HEAD_NAMES.index(head)] for head in ("op", "slot"))
    assert legal[np.arange(6000), op, slot].all()
    shares = np.bincount(op, minlength=len(Op)) / 6000
    np.testing.assert_allclose(shares[[Op.WAIT, Op.GERMINATE, Op.PRUNE]], 1 / 3, atol=0.03)
    np.testing.assert_allclose((slot[op == Op.GERMINATE] == 1).mean(), 0.5, atol=0.05)
    for column, size in enumerate(HEAD_SIZES[:-1]):
        if HEAD_NAMES[column] != "slot":
            share = np.bincount(actions[:, column], minlength=size) / 6000
            np.testing.assert_allclose(share, 1 / size, atol=0.03)


def test_the_report_has_every_contestant_and_fits_its_width(result: Evaluation) -> None:
    console = Console(record=True, width=120, highlight=False, file=io.StringIO())
    console.print(evaluation_report.evaluation_text(result))
    text = console.export_text()
    for entry in result.entries:
        assert re.search(rf"^{entry.contestant.name} ", text, re.MULTILINE)
        iqm = entry.standings["test_accuracy"].iqm
        assert f"{iqm.value:.3f} [{iqm.low:.3f}, {iqm.high:.3f}]" in text
        assert f"{entry.contestant.search_multiply_adds / 1e9:,.1f} G" in text or not (
            entry.contestant.search_multiply_adds
        )
    assert "first, second" in text
    assert "the 2 training runs and the episodes are resampled" in " ".join(text.split())
    assert "P(agent better)" in text
    assert "best of 2" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 120


def test_json_holds_every_episode(result: Evaluation) -> None:
    report = json.loads(json.dumps(evaluation_report.evaluation_as_json(result), allow_nan=False))
    agent, none, *_ = report["contestants"]
    assert [len(stratum["test_accuracy"]) for stratum in agent["strata"]] == [6, 6]
    assert agent["standings"]["score"]["agent_better"] is None
    better = none["standings"]["score"]["agent_better"]
    assert 0 <= better["low"] <= better["value"] <= better["high"] <= 1
    assert [policy["name"] for policy in report["policies"]] == ["first", "second"]


def test_the_picture_has_every_contestant_in_both_panels(result: Evaluation) -> None:
    root = ElementTree.fromstring(evaluation_plot.evaluation_plot(result))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    space = "{http://www.w3.org/2000/svg}"
    titles = [title.text for title in root.iter(f"{space}title")]
    for entry in result.entries:
        assert titles.count(entry.contestant.name) == 3, "two panels and the legend"
    texts = list(root.iter(f"{space}text"))
    assert any("agent" in (text.text or "") for text in texts)
    labels = [float(text.attrib["y"]) for text in texts if text.text == "test accuracy"]
    ticks = [text for text in texts if re.fullmatch(r"0\.\d\d", text.text or "")]
    highest = min(float(tick.attrib["y"]) for tick in ticks)
    assert len(labels) == 2
    assert all(label <= highest - 18 for label in labels), "a line apart"
    for text in texts:
        assert 0 <= float(text.attrib["x"]) <= width
        assert 0 <= float(text.attrib["y"]) <= height
    assert not any(each.tag == f"{space}rect" for each in root), "no background"


points = st.lists(st.tuples(st.integers(0, 9).map(float), st.integers(0, 9).map(float)), min_size=1)


@given(points)
def test_a_frontier_has_the_points_that_no_smaller_one_beats(
    dots: list[tuple[float, float]],
) -> None:
    line = frontier(dots)
    assert line == sorted(line)
    for x, y in dots:
        assert any(a <= x and b >= y for a, b in line)
    for x, y in line:
        assert (x, y) in dots
        assert not any(a <= x and b >= y and (a, b) != (x, y) for a, b in dots)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"steps": 7}, "steps 5 and second with 7"), ({"task": "mnist1d"}, "task digits and second")],
)
def test_policies_of_different_tasks_are_not_evaluated_together(
    settings: dict[str, Any], words: str
) -> None:
    policies = [trained("first"), trained("second", **settings)]
    with pytest.raises(EvaluationError, match=words):
        evaluate(policies, episodes=4, against=("none",), rng_seed=0, say=lambda _: None)


def test_one_episode_is_too_few() -> None:
    with pytest.raises(EvaluationError, match="--episodes must be at least 2"):
        evaluate([trained()], episodes=1, against=("none",), rng_seed=0, say=lambda _: None)
    with pytest.raises(EvaluationError, match="--seed must be 0 or more"):
        evaluate([trained()], episodes=2, against=("none",), rng_seed=-1, say=lambda _: None)


def test_baselines_are_parsed_from_a_list_each_once() -> None:
    assert parse_baselines("static, none,static") == ("static", "none")
    assert parse_baselines("same-cost,none,same-architecture") == ("same-architecture", "none")
    assert parse_baselines("all") == tuple(BASELINES)
    for text, words in (("none,best", "no baseline 'best'"), (" ,", "no baseline is named")):
        with pytest.raises(UnknownBaselineError, match=words):
            parse_baselines(text)


def test_every_baseline_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for name in (*BASELINES, "same-cost", "heuristic-same-cost"):
        assert f"| `{name}` |" in page, name


def test_halving_needs_the_search_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline_names, "find_spec", lambda name: None)
    with pytest.raises(MissingSearchLibraryError, match=r"needs optuna; install it with: .*search"):
        parse_baselines("none,halving")
    assert parse_baselines("none") == ("none",)


def test_a_checkpoint_gives_the_policy_that_training_left(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    settings = {"episodes": 4, "feature_size": 8, "lstm_size": 12}
    train(**settings)
    path = latest_checkpoint(tmp_path / "checkpoints")
    assert path is not None
    config = TrainingConfig(**settings)
    loaded = load_trained_policy(path, config, "it")
    assert loaded.episodes == 4
    kept = load_checkpoint(path, torch.device("cpu")).agent["policy"]
    for name, tensor in loaded.policy.state_dict().items():
        assert torch.equal(tensor, kept[name])


def test_a_policy_with_other_observations_is_refused_with_a_reason(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"episodes": 2, "feature_size": 8, "lstm_size": 8}
    train(**settings)
    path = latest_checkpoint(tmp_path / "checkpoints")
    assert path is not None
    monkeypatch.setattr("esper.simic.training.trained_policy.FEATURES", FEATURES[:-1])
    with pytest.raises(CheckpointError, match=f"observations of {len(FEATURES)} entries"):
        load_trained_policy(path, TrainingConfig(**settings), "it")


def test_without_baselines_there_is_no_comparison(result: Evaluation) -> None:
    assert isinstance(result.entries[0].contestant, Contestant)
    assert result.entries[0].standings["score"].agent_better is None
    assert all(
        entry.standings[measure].agent_better is not None
        for entry in result.entries[1:]
        for measure in contest.MEASURES
    )


def test_a_network_that_is_not_finite_has_score_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """An infinite logit of the right class would count as right, and a NaN would spread."""
    with contextlib.closing(Arena(CONFIG, torch.device("cpu"), episodes=4, rng_seed=1)) as arena:
        whole = arena.play("agent", "waits", lambda hosts, _: lambda *_: waiting(hosts))
        env = arena.settings
        step, taken = env.step, []

        def poisoned(_env: GrowthVectorEnv, actions: np.ndarray) -> Any:
            taken.append(None)
            if len(taken) == CONFIG.steps:
                population = env._cohort.population
                columns = population.host_columns(np.array([2, 3]))
                population.state[0, columns[0, -1]] = torch.inf  # the last class's bias
                population.state[0, columns[1, 0]] = torch.nan
            return step(actions)

        monkeypatch.setattr(GrowthVectorEnv, "step", poisoned)
        broken = arena.play("agent", "waits", lambda hosts, _: lambda *_: waiting(hosts))
    for measure in ("test_accuracy", "validation_accuracy", "score"):
        ours = getattr(broken.outcomes, measure)
        assert ours[2:].tolist() == [0.0, 0.0], measure
        assert np.array_equal(ours[:2], getattr(whole.outcomes, measure)[:2]), measure


def waiting(hosts: int) -> np.ndarray:
    """Return actions that leave every host alone. `[N, 8]`"""
    return np.zeros((hosts, len(HEAD_SIZES)), dtype=np.int64)
