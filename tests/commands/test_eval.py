"""`esper eval`: a run against baselines, as text, JSON and a plot."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from esper.karn.store.run_store import find_run

Run = Callable[..., tuple[int, str, str]]


def test_eval_compares_a_run_with_baselines(run: Run, tmp_path: Path) -> None:
    settings = ("--episodes", "2", "--steps", "2", "--task", "digits", "--lstm-size", "8")
    assert run("ppo", "--no-sanctum", "--name", "one", *settings)[0] == 0
    asked = ("--episodes", "2", "--against", "none,random", "--seed", "4")
    code, out, err = run("eval", *asked, "--json", "--plot", "out.svg")
    assert code == 0
    assert "random: uniform legal choices" in err
    report = json.loads(out)
    assert (report["task"], report["steps"], report["seed"]) == ("digits", 2, 4)
    assert [each["name"] for each in report["contestants"]] == ["agent", "none", "random"]
    assert (tmp_path / "out.svg").read_text(encoding="utf-8").startswith("<svg")

    directory = find_run(tmp_path / "runs")
    (checkpoint,) = [*(directory / "checkpoints").glob("*.pt")][-1:]
    code, out, _ = run("eval", str(checkpoint), *asked)
    assert code == 0
    assert re.search(r"^random +0\.\d{3} \[", out, re.MULTILINE)
    copy = checkpoint.with_name("update-000009.pt")
    copy.write_bytes(checkpoint.read_bytes())
    code, out, _ = run("eval", str(checkpoint), str(copy), directory.name, *asked, "--json")
    assert code == 0
    names = [f"{directory.name}/{checkpoint.stem}", f"{directory.name}/update-000009"]
    assert [each["name"] for each in json.loads(out)["policies"]] == [*names, directory.name]
    code, _, err = run("eval", "absent/update-000001.pt", *asked)
    assert (code, err.count("\n")) == (2, 1)
    assert "there is no file absent/update-000001.pt" in err

    lost = checkpoint.rename(tmp_path / "lost.pt")
    code, _, err = run("eval", str(lost), *asked)
    assert (code, err.count("\n")) == (2, 1)
    assert "is not in the folder of a run" in err
    for other in (directory / "checkpoints").iterdir():
        other.unlink()
    code, _, err = run("eval", *asked)
    assert (code, err.count("\n")) == (2, 1)
    assert "has no checkpoint yet" in err
