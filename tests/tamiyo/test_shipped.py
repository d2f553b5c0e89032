"""The policy that comes with the package: whole, of this code's shape, refused where it is not."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from esper.growth.environment.observation import FEATURES
from esper.services.policies import load_policy, locate_policy
from esper.simic.config import TrainingConfig, read_config, updated
from esper.simic.training.trained_policy import shipped_policy
from esper.tamiyo.policy import RecurrentPolicy
from esper.tamiyo.shipped import (
    CURVE_NAME,
    EVALUATION_NAME,
    POLICY_NAME,
    SHIPPED,
    ShippedPolicyError,
    load_shipped_policy,
    save_policy,
)

NAMES = [feature.name for feature in FEATURES]


def test_the_shipped_policy_fits_this_code() -> None:
    trained = shipped_policy("shipped")
    assert trained.policy.features.in_features == len(NAMES)
    assert trained.episodes == trained.config.episodes
    assert (SHIPPED / POLICY_NAME).stat().st_size < 500_000


def test_curve_and_evaluation_belong_to_it() -> None:
    config = updated(TrainingConfig(), read_config(SHIPPED / "config.toml"))
    with (SHIPPED / CURVE_NAME).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["episodes_done"]) == config.episodes
    assert [int(row["update"]) for row in rows] == list(range(1, len(rows) + 1))
    (policy,) = json.loads((SHIPPED / EVALUATION_NAME).read_text(encoding="utf-8"))["policies"]
    assert (policy["training_seed"], policy["episodes"]) == (config.rng_seed, config.episodes)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    policy = RecurrentPolicy(len(NAMES), feature_size=16, lstm_size=24)
    save_policy(policy, NAMES, 7, tmp_path)
    loaded = load_shipped_policy(NAMES, tmp_path)
    assert loaded.episodes == 7
    torch.testing.assert_close(loaded.policy.state_dict(), policy.state_dict(), rtol=0, atol=0)


def test_another_observation_is_refused_in_one_sentence(tmp_path: Path) -> None:
    save_policy(RecurrentPolicy(len(NAMES)), NAMES, 1, tmp_path)
    words = r"other observations .* \(something.else only in this version; .* only in the policy\)"
    with pytest.raises(ShippedPolicyError, match=words):
        load_shipped_policy([*NAMES[:-1], "something.else"], tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"not safetensors at all"])
def test_missing_or_damaged_files_are_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / POLICY_NAME).write_bytes(content)
    with pytest.raises(ShippedPolicyError, match="cannot be read"):
        load_shipped_policy(NAMES, tmp_path)


def test_every_bit_of_the_file_counts(tmp_path: Path) -> None:
    save_policy(RecurrentPolicy(len(NAMES), feature_size=4, lstm_size=4), NAMES, 7, tmp_path)
    path = tmp_path / POLICY_NAME
    whole = path.read_bytes()
    assert load_shipped_policy(NAMES, tmp_path).has_digest
    end_of_header = 8 + int.from_bytes(whole[:8], "little")
    places = [8, whole.index(b"sha256"), whole.index(b"sha256") + 20, whole.index(b'"7"') + 1]
    for place in (*places, end_of_header - 1, end_of_header, len(whole) - 1):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ShippedPolicyError, match=r"damaged|cannot be read") as error:
            load_shipped_policy(NAMES, tmp_path)
        assert "\n" not in str(error.value)


def test_a_policy_without_a_digest_is_read_and_reported_as_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = RecurrentPolicy(len(NAMES), feature_size=4, lstm_size=4)
    save_policy(policy, NAMES, 7, tmp_path)
    path = tmp_path / POLICY_NAME
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    del metadata["sha256"]
    path.write_bytes(save(policy.state_dict(), metadata=metadata))  # as older versions did
    old = load_shipped_policy(NAMES, tmp_path)
    assert not old.has_digest
    torch.testing.assert_close(old.policy.state_dict(), policy.state_dict(), rtol=0, atol=0)

    assert not shipped_policy("shipped").caution
    monkeypatch.setattr(
        "esper.simic.training.trained_policy.load_shipped_policy", lambda _: replaced
    )
    replaced = replace(old, config=SHIPPED / "config.toml")
    caution = load_policy(locate_policy(tmp_path, "shipped")).caution
    assert "has no digest, so damage to its weights cannot be detected" in caution
