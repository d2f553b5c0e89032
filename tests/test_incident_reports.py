"""The list of incidents: every fact of it, in lines that fit."""

from pathlib import Path
from typing import Any

import pytest

from esper.incident_reports import print_incidents
from esper.karn.run_store import RunWriter, create_run
from esper.leyline.telemetry import IncidentRecorded


def test_the_list_names_all_that_was_seen_in_lines_of_100_columns(
    tmp_path: Path, payloads: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {"epoch": 0, "minibatch": 0}
    sightings = [
        *(
            payloads.sighting(
                head="hosts",
                quantity="loss",
                kind="nan",
                phase="hosts",
                host=host,
                step=2,
                **before,
            )
            for host in (3, 0, 5)
        ),
        payloads.sighting(phase="acting", host=3, step=7, **before),
        payloads.sighting(
            head="shared",
            quantity="moments",
            part="exp_avg_sq of lstm.weight_ih_l0",
            reproduced=False,
            planted=True,
            host=11,
            step=24,
        ),
    ]
    reason = "it shows nothing new, and of such 8 are kept (--incidents-kept)"
    with RunWriter(create_run(tmp_path, "test")) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.update(12, head_nonfinite=sightings))
        writer.emit(IncidentRecorded(update=12, number=3, path="", size=0, reason=reason))
        writer.emit(payloads.finish(update=12))

    assert print_incidents(tmp_path, None, as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[1:] == [
        f"   3  update 12, not kept: {reason}",
        "      hosts NaN in loss, while training host 4, step 2, also in hosts 1 and 6",
        "      op Inf in logits, while acting, host 4, step 7",
        "      shared Inf in moments (exp_avg_sq of lstm.weight_ih_l0), host 12, step 24, epoch 1,",
        "        minibatch 1, not reproduced, planted by a drill",
    ]
