"""Observability loads nothing of training: a cockpit must come up at once, and on any machine."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "esper.karn.alerts.alerting",
        "esper.karn.alerts.settings",
        "esper.karn.store.run_store",
        "esper.karn.reports.health",
        "esper.karn.reports.runs",
        "esper.karn.reports.run_folder.removal_rules",
        "esper.karn.reports.telemetry_docs",
        "esper.karn.sanctum.following.follower",
        "esper.karn.sanctum.fold.verdict",
        "esper.karn.sanctum.frame.status_line",
        "esper.leyline.records",
    ],
)
def test_no_torch_numpy_or_textual_is_loaded(module):
    code = (
        f"import {module}, sys; print(sorted({{'torch', 'numpy', 'textual'}} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.strip() == "[]"
