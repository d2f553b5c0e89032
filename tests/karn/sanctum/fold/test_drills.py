"""A drill is marked wherever it lights something, and nothing else is."""

from dataclasses import replace

import pytest

from esper.karn.reports.run_catalogue import list_runs
from esper.karn.sanctum.cockpit.observer import read_view
from esper.karn.sanctum.fold.attention import is_drill
from esper.karn.sanctum.frame.status_line import render_line
from esper.karn.sanctum.frame.status_strip import render_strip
from esper.karn.sanctum.heads.evidence_rows import render_rows
from esper.karn.sanctum.overview.master_status import render_master
from esper.karn.sanctum.runs.run_lines import RunLines
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import (
    LIT,
    LIT_BY_DRILL,
    render_heads,
)
from esper.karn.store.run_store import RunWriter
from esper.karn.text.palette import DARK


@pytest.fixture
def shown(run, payloads):
    """Return a function that gives all that is shown of a run of some bad updates."""

    def make(*updates):
        with RunWriter(run) as writer:
            writer.emit(payloads.start())
            for number, (head, planted) in enumerate(updates, start=1):
                seen = payloads.sighting(head=head, planted=planted)
                broken = payloads.broken_update(number, head, "+inf", head_nonfinite=[seen])
                writer.emit(broken)
            writer.emit(payloads.finish())
        view = read_view(run)
        heads = render_heads(view.snapshot, 120).plain
        (lights,) = [line for line in heads.splitlines() if line.startswith("Inf")]
        return {
            "view": view,
            "lights": lights,
            "heads": heads,
            "banner": render_master(view, 120, 1).plain,
            "strip": render_strip(view, 120).plain,
            "line": render_line(view).plain,
            "evidence": "\n".join(line.plain for line in render_rows(view, 120)),
            "runs": RunLines().lines(list_runs(run.parent), 120, DARK)[1].plain,
        }

    return make


def test_what_a_drill_lights_is_marked_everywhere(shown):
    found = shown(("op", True))
    assert found["lights"].count(LIT_BY_DRILL) == 1
    assert LIT not in found["lights"]
    for place in ("heads", "evidence"):
        assert "planted by a drill" in found[place]
    assert LIT_BY_DRILL in found["evidence"]
    assert LIT_BY_DRILL in found["runs"]
    for place in ("banner", "strip", "line"):
        assert "drill: op" in found[place]


def test_what_no_drill_planted_is_not_marked_though_others_are(shown):
    found = shown(("op", True), ("slot", False))
    assert not is_drill(found["view"].snapshot.tamiyo)
    assert (found["lights"].count(LIT_BY_DRILL), found["lights"].count(LIT)) == (1, 1)
    assert "op (drill)" in found["runs"]
    assert "slot (drill)" not in found["runs"]
    for place in ("banner", "strip", "line"):
        assert "drill: " not in found[place]


def test_a_fault_that_came_after_a_drill_in_the_same_place_is_a_fault(shown):
    found = shown(("op", True), ("op", False))
    assert LIT_BY_DRILL not in found["lights"] + found["evidence"] + found["runs"]
    assert "drill" not in found["banner"] + found["heads"]


def test_a_run_without_lights_is_no_drill(views):
    assert not is_drill(views.healthy().tamiyo)
    tamiyo = views.broken().tamiyo
    assert not is_drill(replace(tamiyo, evidence=()))
