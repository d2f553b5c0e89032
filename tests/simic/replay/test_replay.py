"""Replay's verdict, and its report as text, JSON and HTML."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from esper.cli import main
from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.agent.ppo import PPOAgent
from esper.simic.agent.rollout import Rollout
from esper.simic.drill import Injection
from esper.simic.replay.incidents import Capsule, IncidentError, read_capsule, write_capsule
from esper.simic.replay.rebuilding import rebuild_agent
from esper.simic.replay.replay_page import replay_page
from esper.simic.replay.replay_report import replay_as_json, replay_text
from esper.simic.replay.replaying import replay
from esper.simic.replay.verdict import DIFFERS, NOT_REPRODUCED, REPRODUCED, judge

AgentMaker = Callable[..., PPOAgent]
RolloutMaker = Callable[..., Rollout]
CapsuleMaker = Callable[..., Capsule]


@pytest.fixture
def capsule(
    make_agent: AgentMaker, make_rollout: RolloutMaker, make_capsule: CapsuleMaker
) -> Capsule:
    """Return the capsule of an update of four minibatches with a weight that is NaN."""
    agent = make_agent(ppo_epochs=2, minibatches=2)
    rollout = make_rollout(agent)
    agent.update(rollout)
    with torch.no_grad():
        agent.policy.heads.weight[0, 3] = torch.nan
    return make_capsule(agent, rollout)


def sighting(**changes: object) -> NonfiniteSighting:
    values = {"head": "op", "quantity": "ratio", "kind": "+inf", "count": 2}
    return NonfiniteSighting(**{**values, "epoch": 1, "minibatch": 2, **changes})


def test_a_replay_reproduces_and_changes_nothing(
    capsule: Capsule, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = write_capsule(tmp_path_factory.mktemp("incidents"), 1, capsule)
    read = read_capsule(folder)
    threads = torch.get_num_threads()
    first, second = replay(read), replay(read)
    assert first.verdict == second.verdict == REPRODUCED
    assert first.seen == second.seen == first.recorded
    assert first.origin is not None
    assert second.origin is not None
    assert first.origin.cause == second.origin.cause == "poisoned weight: heads.weight[0, 3] is nan"
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    moments = capsule.agent["optimizer"]["state"], read.agent["optimizer"]["state"]
    for before, after in zip(*(m.values() for m in moments), strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_replay_reports_its_progress_at_each_minibatch(capsule: Capsule) -> None:
    steps: list[tuple[str, float]] = []
    replay(capsule, lambda what, done: steps.append((what, done)))
    assert steps == [
        ("replaying, preparation", 0.0),
        *((f"replaying, minibatch {number} of 4", number / 5) for number in (1, 2, 3, 4)),
        ("finding where it began", 0.8),
    ]


def test_the_command_shows_elapsed_and_remaining_time(
    capsule: Capsule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write_capsule(tmp_path / "run" / "incidents", 1, capsule)
    monkeypatch.setattr("esper.simic.command_progress.SECONDS_BETWEEN_LINES", 0.0)
    with pytest.raises(SystemExit) as ended:
        main(["replay", str(folder)])
    assert ended.value.code == 0
    output, errors = capsys.readouterr()
    assert "REPRODUCED" in output
    lines = errors.splitlines()
    # The time in which the process of the replay starts counts, too.
    assert re.fullmatch(r"replaying, preparation: 0% of the work done, \d:\d\d elapsed", lines[0])
    assert len(lines) == 6
    for line in lines[1:]:
        assert re.search(r"% of the work done, \d:\d\d elapsed, about \d:\d\d left$", line)


def test_a_replay_computes_what_training_computed(
    make_agent: AgentMaker, make_rollout: RolloutMaker, make_capsule: CapsuleMaker
) -> None:
    """Watching every operation changes no bit of what is learnt."""
    agent = make_agent(ppo_epochs=2, minibatches=2)
    capsule = make_capsule(agent, make_rollout(agent), Injection("op", "logits", "nan", 1))
    traced, _ = rebuild_agent(capsule)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "esper.simic.replay.replaying.rebuild_agent", lambda _: (traced, torch.device("cpu"))
        )
        assert replay(capsule).verdict == REPRODUCED
    trained = agent.policy.state_dict()
    assert all(torch.equal(trained[name], w) for name, w in traced.policy.state_dict().items())


def test_a_fault_that_does_not_happen_again_is_not_reproduced(capsule: Capsule) -> None:
    capsule.agent["policy"]["heads.weight"][0, 3] = 0.0
    replayed = replay(capsule)
    assert replayed.verdict == NOT_REPRODUCED
    assert replayed.differences == ("everything was finite in the replay",)
    assert replayed.origin is None


def test_another_fault_differs(capsule: Capsule) -> None:
    capsule.agent["policy"]["heads.weight"][0, 3] = torch.inf
    replayed = replay(capsule)
    assert replayed.verdict == DIFFERS
    assert {one.kind for one in replayed.recorded if one.quantity == "parameters"} == {"nan"}
    assert {one.kind for one in replayed.seen if one.quantity == "parameters"} == {"+inf"}
    assert "recorded, not seen now: slot NaN in parameters (heads.weight), before the update" in (
        replayed.differences
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"minibatch": 1},
            "Inf in ratio: recorded (epoch 1, minibatch 2), seen now (epoch 1, minibatch 1)",
        ),
        ({"count": 3}, "op Inf in ratio: recorded in 2 minibatches, seen now in 3"),
        ({"kind": "nan"}, "seen now, not recorded: op NaN in ratio, epoch 1, minibatch 2"),
    ],
)
def test_every_difference_is_named(change: dict[str, object], words: str) -> None:
    verdict, differences = judge((sighting(),), (sighting(**change),))
    assert verdict == DIFFERS
    assert any(words in difference for difference in differences)


def test_other_versions_are_a_remark(capsule: Capsule) -> None:
    old = replace(capsule, versions={"torch": "1.0", "python": "3.0"}, device="cuda:0")
    remarks = replay(old).remarks
    assert f"recorded with torch 1.0, replayed with {torch.__version__}" in remarks
    if not torch.cuda.is_available():
        assert "recorded on cuda:0, replayed on cpu" in remarks


def test_other_old_log_probs_are_a_remark(capsule: Capsule) -> None:
    old = capsule.old_log_probs.clone()
    old[0, 0, -1] += 1  # of a head that did not break
    (remark,) = replay(replace(capsule, old_log_probs=old)).remarks
    assert remark == f"1 of {old.numel()} old log-probabilities differ from those of training"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"agent": {}}, "holds no agent that this version knows"),
        ({"config": {"colour": "red"}}, "'colour' is not a setting"),
        ({"rollout": {"initial_state": (torch.ones(1), torch.ones(1))}}, "rollout is not one"),
    ],
)
def test_a_capsule_of_another_kind_is_refused_in_one_sentence(
    capsule: Capsule, broken: dict[str, object], words: str
) -> None:
    with pytest.raises(IncidentError, match=words) as raised:
        replay(replace(capsule, **broken))
    assert "\n" not in str(raised.value)


class Page(HTMLParser):
    """Collects the text of a page and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe") or {"src", "href"} & {n for n, _ in attrs}:
            self.loads.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_text_json_and_page_agree(capsule: Capsule) -> None:
    replayed = replay(capsule)
    about = ("<script>alert(1)</script>&run", 4, capsule.minibatches_per_epoch)
    values = json.loads(json.dumps(replay_as_json(replayed, *about)))
    origin = values["origin"]
    assert values["verdict"] == "reproduced"
    assert (values["incident"], values["update"]) == (4, 37)
    assert values["chain"][0]["op"] == origin["op"] == "aten.addmm.default"
    assert origin["poisons"] == [{"name": "weight heads.weight", "index": [0, 3], "kind": "nan"}]
    assert {part["name"] for part in origin["inputs"]} == {"self", "mat1", "mat2"}
    assert {part["of"] for part in origin["inputs"]} == {
        "weight heads.bias", "", "weight heads.weight"
    }  # fmt: skip

    acting = sighting(phase="acting", host=3, step=7, epoch=0, minibatch=0)
    drill = sighting(host=1, step=1, planted=True)
    replayed = replace(replayed, recorded=(*replayed.recorded, acting, drill))
    console = Console(record=True, width=100, file=StringIO())
    console.print(replay_text(replayed, *about))
    text = console.export_text()
    page = Page(replay_page(replayed, *about))
    assert page.loads == []
    assert "host 4, step 7, in 2 steps" in text
    cause = "a weight was not finite already: heads.weight[0, 3] is NaN"
    for shown in (text, page.text):
        assert about[0] in shown
        assert origin["op"] in shown
        assert cause in " ".join(shown.split())
        assert "poisoned" not in shown
        assert f"policy.py:{origin['line']}" in shown
        assert "logits = self.heads(trunk)" in shown
        assert "slot parameters as NaN" in shown
        assert "slot NaN in parameters (heads.weight), before the update" in shown
        assert "op Inf in ratio, while acting, host 4, step 7" in shown
        assert "op Inf in ratio, host 2, step 1, epoch 1, minibatch 2, planted by a drill" in shown
    assert "prefers-color-scheme: dark" in replay_page(replayed, *about)
    evil = "<script>alert(1)</script>\x1b[31m\u202e"  # a capsule may come from anywhere
    hostile = replay_page(replace(replayed, update=evil, recorded_with=evil), evil, *about[1:])
    assert "<script>" not in hostile
    assert not set(hostile) & set("\x1b\u202e")
