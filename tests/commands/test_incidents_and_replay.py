"""`esper incidents` and `esper replay`, from a drill to the operation that planted it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., tuple[int, str, str]]


def test_incidents_are_listed_and_replayed(run: Run, tmp_path: Path) -> None:
    """The commands of a developer who knows which head went Inf."""
    options = ("--episodes", "2", "--envs", "1", "--steps", "2", "--incidents-kept", "0")
    drills = ("--inject", "op:inf@1", "--inject", "op:inf@2")
    assert run("ppo", *options, *drills)[0] == 0
    code, output, _ = run("incidents", "--json")
    assert code == 0
    first, second = json.loads(output)["incidents"]
    assert (first["number"], first["update"], first["kept"]) == (1, 1, True)
    assert first["sightings"][0]["quantity"] == "logits"
    assert (second["number"], second["update"], second["kept"]) == (2, 2, False)
    assert "--incidents-kept" in second["reason"]
    assert (first["planted"], second["planted"]) == (True, True)
    assert {seen["planted"] for row in (first, second) for seen in row["sightings"]} == {True}
    code, output, _ = run("incidents")
    assert code == 0
    assert "not kept" in output
    assert max(map(len, output.splitlines())) <= 100
    assert output.count("op Inf in logits") == 2  # of what was not kept, what was seen is known
    assert output.count("planted by a drill") == output.count("op ")

    code, output, errors = run("replay", "2", "--html", "page.html")
    # On a slow machine it reports its progress.
    assert (code, [line for line in errors.splitlines() if not line.startswith("replaying, ")]) == (
        0, [],
    )  # fmt: skip
    assert "REPRODUCED" in output
    assert "planted by a drill: op.logits:inf@1" in output
    assert "planted by a drill" in (tmp_path / "page.html").read_text()
    code, output, _ = run("replay", "2", "1", "--json")
    assert code == 0
    assert json.loads(output)["origin"]["function"] == "plant_in_logits"

    code, output, errors = run("replay", "2", "2")
    assert (code, output) == (2, "")
    assert errors.endswith(
        "has no capsule for incident 2; there are capsules for incident 1 (update 1)\n"
    )
    code, output, _ = run("replay", "2", "--update", "1")
    assert code == 0
    assert "incident 1 of" in output
    code, _, errors = run("replay", "--update", "2")
    assert errors.endswith(
        "has no capsule for update 2; there are capsules for incident 1 (update 1)\n"
    )
    elsewhere = tmp_path / "a capsule from elsewhere"
    shutil.copytree(first["path"], elsewhere)
    code, output, errors = run("replay", str(elsewhere))
    assert (code, errors) == (0, "")
    assert "REPRODUCED" in output
    code, _, errors = run("replay", "2", "--html", "absent/page.html")
    assert (code, errors.count("\n")) == (2, 1)
    (tmp_path / first["path"] / "capsule.pt").write_bytes(b"damaged")
    code, _, errors = run("replay", "2")
    assert code == 2
    assert "capsule.pt is damaged: its SHA-256 digest does not match" in errors


def test_a_run_without_incidents(run: Run) -> None:
    assert run("ppo", "--episodes", "1", "--steps", "2")[0] == 0
    code, output, _ = run("incidents")
    assert (code, output.split()[:2]) == (0, ["No", "incidents"])
    code, _, errors = run("replay", "2")
    assert code == 2
    assert errors.endswith("has no incidents: every update was finite\n")
