"""The public Python names: what `import esper` gives, and a run opened from Python."""

import ast
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import esper
from esper.karn.store.run_store import RunNotFoundError, RunStoreError, RunWriter, create_run
from esper.leyline.telemetry import IncidentRecorded

NAMES = [
    "EsperError",
    "GrowthVectorEnv",
    "NonfiniteMonitor",
    "__version__",
    "evaluate",
    "grow",
    "list_runs",
    "open_run",
    "watch",
]


def test_the_public_names_are_these_and_all_of_them_are_there() -> None:
    assert esper.__all__ == NAMES
    for name in NAMES:
        assert getattr(esper, name) is not None
    assert set(NAMES) <= set(dir(esper))
    with pytest.raises(AttributeError, match="no attribute 'opn_run'"):
        esper.opn_run  # noqa: B018  (reading it is the test)


def test_opening_runs_loads_neither_torch_nor_textual() -> None:
    code = (
        "import sys, esper; esper.open_run, esper.list_runs, esper.evaluate, esper.grow; "
        "sys.exit(bool({'torch', 'textual'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_exception_has_one_root() -> None:
    for error in (RunNotFoundError, RunStoreError):
        assert issubclass(error, esper.EsperError)
        assert issubclass(error, ValueError)


@pytest.fixture
def run(tmp_path: Path, payloads: Any) -> Path:
    """A finished run of two updates; in the second, `op` went Inf."""
    directory = create_run(tmp_path, "broken")
    with RunWriter(directory) as writer:
        for payload in (
            payloads.start(),
            payloads.episodes(1),
            payloads.update(1),
            payloads.episodes(2, score=[0.4, math.nan], accuracy=[0.5, 0.9]),
            payloads.broken_update(2, "op", "+inf", policy_loss=math.nan),
            IncidentRecorded(update=2, number=1, path="", size=0, reason="there was no room"),
            payloads.finish(update=2, episodes_done=4),
        ):
            writer.emit(payload)
    return directory


def test_an_opened_run_has_status_lights_evidence_figures_and_incidents(
    run: Path, payloads: Any
) -> None:
    opened = esper.open_run(run)

    assert (opened.run_id, opened.status, opened.doubt) == (run.name, "FINISHED", None)
    lit = {(k, head) for k, lights in opened.latches.items() for head, on in lights.items() if on}
    assert lit == {("inf", "op")}
    assert opened.latches["nan"]["op"] is False
    assert [(one.head, one.quantity, one.first_update) for one in opened.evidence] == [
        ("op", "logits", 2)
    ]
    assert [(one.head, one.kind) for one in opened.first] == [("op", "+inf")]
    assert opened.config == payloads.start().config
    assert [(one["update"], one["kept"]) for one in opened.incidents] == [(2, False)]

    first, second = opened.history()
    assert (first["update_index"], first["score"], first["policy_loss"]) == (1, 0.5, -0.01)
    assert first["loss_scale"] is None
    # Means are over the hosts whose score is finite.
    assert (second["score"], second["accuracy"]) == (0.4, 0.5)
    assert math.isnan(second["policy_loss"])


def test_a_notebook_shows_the_lights_and_no_markup_of_the_run(run: Path) -> None:
    hostile = run.rename(run.with_name("<script>"))
    shown = esper.open_run(hostile)._repr_html_()

    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert shown.count("●") == 1


def test_the_newest_run_of_a_folder_is_opened(run: Path) -> None:
    assert esper.open_run(run_dir=run.parent).path == run.resolve()
    assert [one.run_id for one in esper.list_runs(run.parent)] == [run.name]
    with pytest.raises(RunNotFoundError):
        esper.open_run("other", run_dir=run.parent)


def test_what_is_not_known_is_none(run: Path) -> None:
    (run / "run.sqlite").write_bytes(b"nothing")  # latches.jsonl still has the light
    opened = esper.open_run(run)

    assert opened.latches["inf"]["op"] is True
    assert opened.latches["nan"]["op"] is None
    assert opened.doubt
    assert "?" in opened._repr_html_()

    (run / "latches.jsonl").unlink()
    with pytest.raises(RunStoreError):
        esper.open_run(run)


def test_all_exceptions_of_the_package_derive_from_the_root() -> None:
    bases: dict[str, list[str]] = {}
    for file in Path(esper.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
                bases[node.name] = [ast.unparse(base) for base in node.bases]

    def is_of_esper(name: str) -> bool:
        return name == "EsperError" or any(map(is_of_esper, bases.get(name, ())))

    assert len(bases) > 20
    assert [name for name in bases if not is_of_esper(name)] == []
