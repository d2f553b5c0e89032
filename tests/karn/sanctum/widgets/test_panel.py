"""What a panel repaints, and what it leaves alone."""

from dataclasses import replace

import msgspec

from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.frame.run_header import RunHeader
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import ActionHeadsPanel


def _count_repaints(app, monkeypatch):
    """Return a list that collects the id of a panel and the region for each call to repaint."""
    repaints = []
    original = Panel.refresh

    def refresh(self, *regions, **more):
        repaints.append((self.id, regions))
        return original(self, *regions, **more)

    monkeypatch.setattr(Panel, "refresh", refresh)
    return repaints


async def test_nothing_is_repainted_when_nothing_changed(views, sanctum, seen, monkeypatch):
    view = views.view()
    app = sanctum(view)
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        repaints = _count_repaints(app, monkeypatch)
        app.shown.append(replace(view, snapshot=replace(view.snapshot)))
        await seen(pilot)
        assert repaints == []


async def test_when_a_second_passes_only_the_clock_is_repainted(views, sanctum, seen, monkeypatch):
    view = views.view()
    app = sanctum(view)
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        repaints = _count_repaints(app, monkeypatch)
        app.shown.append(replace(view, now=view.now + 1))
        await seen(pilot)
        assert [name for name, _ in repaints] == [app.screen.query_one(RunHeader).id]
        (region,) = repaints[0][1]
        assert region.height == 1


async def test_panels_that_did_not_change_are_left_alone(views, sanctum, seen, monkeypatch):
    view = views.view()
    app = sanctum(view)
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        repaints = _count_repaints(app, monkeypatch)
        training = view.snapshot.training
        figures = msgspec.structs.replace(training.figures, policy_loss=0.5)
        training = replace(training, figures=figures)
        app.shown.append(replace(view, snapshot=replace(view.snapshot, training=training)))
        await seen(pilot)
        assert {name for name, _ in repaints} == {"policy"}


async def test_what_changes_all_the_time_rests_and_is_drawn_at_last(
    views, sanctum, seen, monkeypatch
):
    monkeypatch.setattr("esper.karn.sanctum.drawing.panel.REST_SECONDS", 3_600.0)
    view = views.view(views.healthy())
    app = sanctum(view)
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        header, lights = app.screen.query_one(RunHeader), app.screen.query_one(ActionHeadsPanel)
        before = header.text
        app.shown.append(views.view(views.broken(), now=view.now + 100))
        await seen(pilot)
        assert header.text == before  # an hour has not passed
        assert "●" in lights.text  # what is urgent never rests
        monkeypatch.setattr("esper.karn.sanctum.drawing.panel.REST_SECONDS", 0.0)
        app.shown.append(replace(app.shown[-1]))
        await seen(pilot)
        assert header.text != before
