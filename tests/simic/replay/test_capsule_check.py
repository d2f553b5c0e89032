"""Capsules from strangers: one sentence, in bounded time and memory."""

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.simic.agent.ppo import PPOAgent
from esper.simic.agent.rollout import Rollout
from esper.simic.replay.incidents import (
    Capsule,
    IncidentError,
    list_incidents,
    read_capsule,
    write_capsule,
)
from esper.simic.replay.replaying import replay
from esper.simic.replay.verdict import REPRODUCED
from esper.simic.torch_files import TorchFileError, compacted, expanded, load_values, saved

Spoil = Callable[[Capsule], Capsule]


@pytest.fixture(scope="module")
def made() -> dict[str, Capsule]:
    """The capsule of this module, once it was made."""
    return {}


@pytest.fixture
def capsule(
    make_agent: Callable[..., PPOAgent],
    make_rollout: Callable[..., Rollout],
    make_capsule: Callable[..., Capsule],
    made: dict[str, Capsule],
) -> Capsule:
    """Return the capsule of an update of two minibatches with a weight that is NaN."""
    if not made:
        agent = make_agent(ppo_epochs=1, minibatches=2)
        rollout = make_rollout(agent)
        agent.update(rollout)
        with torch.no_grad():
            agent.policy.heads.weight[0, 3] = torch.nan
        made["it"] = make_capsule(agent, rollout)
    return made["it"]


def without(part: str) -> Spoil:
    return lambda capsule: replace(
        capsule, rollout={name: value for name, value in capsule.rollout.items() if name != part}
    )


def with_part(part: str, value: Any) -> Spoil:
    return lambda capsule: replace(capsule, rollout=capsule.rollout | {part: value})


def with_policy(name: str, value: Any) -> Spoil:
    def spoil(capsule: Capsule) -> Capsule:
        policy = capsule.agent["policy"] | {name: value}
        return replace(capsule, agent=capsule.agent | {"policy": policy})

    return spoil


def with_field(name: str, value: Any) -> Spoil:
    return lambda capsule: replace(capsule, **{name: value})


def with_group(name: str, value: Any) -> Spoil:
    def spoil(capsule: Capsule) -> Capsule:
        optimizer = capsule.agent["optimizer"]
        (group,) = optimizer["param_groups"]
        optimizer = optimizer | {"param_groups": [group | {name: value}]}
        return replace(capsule, agent=capsule.agent | {"optimizer": optimizer})

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without("rewards"), "it has no rewards"),
        (without("masks"), "its masks is missing"),
        (with_part("extra", 1), "unknown part 'extra'"),
        (with_part("values", torch.zeros(6, 7)), r"its values has the shape \(6, 7\)"),
        (with_part("rewards", torch.zeros(0, 8)), r"its rewards have the shape \(0, 8\)"),
        (with_part("actions", torch.full((6, 8, 8), 99)), "its actions of slot are not from 0"),
        (with_part("initial_state", (torch.zeros(1),)), "its initial_state must be two tensors"),
        (with_part("learnable", torch.ones(3, dtype=torch.bool)), "its learnable has the shape"),
        (with_field("threads", 20_000), "its threads must be from 1 to 1024"),
        (with_field("threads", True), "its threads must be from 1 to 1024"),
        (with_field("update", "x"), "its update must be a whole number"),
        (with_field("device", "cuda:zero"), "its device must be cpu or cuda"),
        (with_field("injections", ["op"]), "inject takes HEAD"),
        (with_field("sightings", [{"head": 3}]), "its sightings are not sightings"),
        (with_field("torch_generator", torch.zeros(3)), "random generator has the wrong size"),
        (with_field("minibatches", [torch.tensor([0])] * 1_000_000), "it has 1000000 minibatches"),
        (with_field("minibatches", [torch.tensor([99]), torch.tensor([0])]), "not from 0 to 7"),
        (with_field("minibatches", [torch.tensor([0] * 9)] * 2), "not from 0 to 7"),
        (with_field("minibatches", [torch.tensor(0.5)] * 2), "not a tensor of host numbers"),
        (with_field("minibatches_per_epoch", 0), "minibatches_per_epoch a number of 1 or more"),
        (
            with_field("old_log_probs", torch.zeros(2, 2)),
            r"its old_log_probs has the shape \(2, 2\)",
        ),
        (with_field("config", {"episodes": "many"}), "episodes must be a whole number"),
        (with_field("config", {3: 4}), "3 is not a setting"),
        (with_field("agent", {}), "it holds no agent that this version knows"),
        (with_policy("features.weight", torch.zeros(8, 12)), "LSTM do not fit one another"),
        (with_policy("lstm.weight_hh_l0", torch.zeros(1, 4096)), "LSTM do not fit one another"),
        (with_policy("critic.bias", torch.zeros(3)), "cannot be built"),
        (with_group("lr", "fast"), "its optimizer's lr is not a number"),
        (with_group("betas", (0.9, None)), "its optimizer's betas is not a number"),
        (with_group("betas", (0.9,)), "its optimizer has no two betas"),
        (with_group("differentiable", True), "its optimizer has another differentiable"),
    ],
)
def test_inconsistent_capsules_are_refused_in_one_sentence(
    capsule: Capsule, spoil: Spoil, words: str
) -> None:
    start = time.monotonic()
    with pytest.raises(IncidentError, match=words) as caught:
        replay(spoil(capsule))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 10


def test_a_whole_capsule_is_replayed(capsule: Capsule) -> None:
    assert replay(capsule).verdict == REPRODUCED


def put(folder: Path, data: bytes, **changes: Any) -> Path:
    """Make an incident of any content, with the digest that goes with it."""
    folder.mkdir(parents=True)
    (folder / "capsule.pt").write_bytes(data)
    summary = {"number": 1, "update": 2, "sightings": []} | changes
    summary.setdefault("sha256", hashlib.sha256(data).hexdigest())
    (folder / "incident.json").write_text(json.dumps(summary))
    return folder


def deflated(data: bytes) -> bytes:
    """Return an archive with its records compressed: a small file that is large in memory."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(packed, "w", 8) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    return packed.getvalue()


def expansion(shape: list[int], *sizes: float) -> dict[str, object]:
    """Return the encoding of an expanded tensor in a capsule."""
    return {"compact tensor": torch.zeros(shape), "expanded to": [*sizes]}


def test_tensors_whose_elements_share_memory_are_read_as_they_were() -> None:
    values = {
        "mask": torch.arange(3.0)[:, None].expand(3, 4),
        "scalar": torch.tensor(2).expand(2, 3),
        "windows": (torch.arange(9.0).unfold(0, 3, 1), [torch.zeros(1).expand(5), 7]),
    }
    read = expanded(load_values(saved(compacted(values)), "cpu"))

    torch.testing.assert_close(read, values, rtol=0, atol=0)
    assert len(saved(compacted({"x": torch.zeros(1).expand(10**6)}))) < 10_000


# What is refused is no file of Esper: torch warns that checking its sparse tensor may be slow.
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (saved({"x": torch.zeros(1).expand(10**12, 2)}), "whose elements overlap"),
        (deflated(saved({"x": torch.zeros(10**6)})), "more memory than its own size"),
        (saved([0] * 1_000_001), "more values than any file of Esper"),
        (saved({"x": torch.zeros(2, 2).to_sparse()}), "quantized, sparse or on the meta device"),
        (
            saved({"x": torch.empty(10**12, device="meta")}),
            "quantized, sparse or on the meta device",
        ),
        (saved({"x": expansion([1], 10**12)}), "expanded tensors would need more than 256 MiB"),
        (saved({"x": [expansion([1], 2**25)] * 3}), "expanded tensors would need more than"),
        (saved({"x": expansion([2], 3)}), "whose shape does not fit its elements"),
        (saved({"x": expansion([1], -1)}), "without a valid shape"),
        (saved({"x": expansion([1], 2.0)}), "without a valid shape"),
        (saved({"x": expansion([], 2)}), "without a valid shape"),
        (b"PK\x03\x04", "it is not a file of torch.save"),
        (saved({"format": 3}), "is incomplete"),
        (saved([3]), "has another format than 3"),
    ],
    ids=[
        *("strides", "deflated", "many", "sparse", "meta", "expanded", "all expanded", "unfitting"),
        *("negative", "no integer", "other dimensions", "cut", "lacking", "list"),
    ],
)
def test_a_file_that_would_need_more_memory_than_its_size_is_refused(
    tmp_path: Path, data: bytes, words: str
) -> None:
    with pytest.raises(IncidentError, match=words):
        read_capsule(put(tmp_path / "0001", data))


def test_code_in_a_file_is_not_run() -> None:
    with pytest.raises(TorchFileError, match="its tensors cannot be read"):
        load_values(saved({"x": print}), "cpu")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5_000 + "]" * 5_000,
        '{"number": ' + "[" * 5_000 + "]" * 5_000 + "}",
        '{"number": ' + "9" * 4_400 + ', "update": 1, "sightings": []}',
        '{"number": "1", "update": 1, "sightings": []}',
        '{"number": 1, "update": 1, "sightings": [{"head": 1}]}',
        " " * (1 << 20) + "{}",
    ],
)
def test_a_damaged_summary_is_listed_and_refused(
    capsule: Capsule, tmp_path: Path, text: str
) -> None:
    folder = write_capsule(tmp_path / "incidents", 1, capsule)
    (folder / "incident.json").write_text(text)
    (incident,) = list_incidents(tmp_path)
    assert incident.damage.startswith(f"the incident in {folder} cannot be read: incident.json is")
    with pytest.raises(IncidentError, match=r"incident\.json cannot be read: incident\.json is"):
        read_capsule(folder)
