"""A new user sees what is trained, whether it is good, and what each panel shows."""

from dataclasses import replace

import pytest

from esper.karn.sanctum.cockpit.screen_map import SCREENS
from esper.karn.sanctum.cockpit.settings import Settings, SettingsFile
from esper.karn.sanctum.dialogs.help import records_of, render_heads, render_records
from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.frame.banner import reasons
from esper.karn.sanctum.overview.policy_panel import PolicyPanel, render_policy
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import ActionHeadsPanel
from esper.karn.text.palette import DARK
from esper.leyline.heads import HEAD_MEANINGS, HEAD_NAMES


def _titles(app):
    return "\n".join(str(panel.border_title) for panel in app.run_screen.query(Panel))


async def test_panels_explain_themselves_on_the_first_visit_and_when_asked(
    views, sanctum, seen, tmp_path
):
    about = ActionHeadsPanel.ABOUT

    def opened():
        file = SettingsFile(tmp_path / "sanctum.toml")
        return sanctum(
            views.view(), settings=Settings(reduced_motion=True, closing=False), settings_file=file
        )

    app = opened()
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        await pilot.pause()
        assert about in _titles(app)
        await pilot.press("2")
        await seen(pilot)
        assert "what was Inf or NaN" in _titles(app)
        await pilot.press("1")
        await seen(pilot)
        assert about not in _titles(app), "it was visited before"
        await pilot.press("question_mark", "escape")
        assert about in _titles(app)
        await pilot.press("3", "1")
        await seen(pilot)
        assert about not in _titles(app)
    app = opened()
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        await pilot.pause()
        assert about not in _titles(app)
        await pilot.press("4")
        await seen(pilot)
        assert "what the policy chose" in _titles(app), "that was not visited yet"


async def test_every_panel_that_can_be_focused_has_one_line_about_it(views, sanctum, seen):
    app = sanctum(views.view(views.drilled()))
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        for key in SCREENS:
            await pilot.press(key)
            await seen(pilot)
            for panel in app.run_screen.query(Panel):
                if panel.can_focus and panel.id != "time":
                    assert panel.ABOUT, panel
                    assert len(panel.ABOUT) <= 72


def test_a_healthy_run_says_what_is_trained_and_whether_its_score_is_good(views):
    healthy = views.healthy()
    assert reasons(views.view(healthy)) == (
        "task mnist1d: score 0.584 (random 0.599, hand-written rule 0.776)",
    )
    other = replace(healthy, run=replace(healthy.run, task="digits"))
    assert reasons(views.view(other)) == ("task digits: score 0.584",)


@pytest.mark.parametrize(("width", "height"), [(57, 18), (98, 34)])
def test_the_score_is_the_first_chart_and_has_guides(views, width, height):
    lines = [line.plain for line in render_policy(views.healthy(), width, height).split("\n")]
    assert lines[0].startswith("Score 0.584")
    assert lines[1].startswith("0.776"), "the scale reaches to the best hand-written rule"
    chart = "\n".join(lines[1 : height // 4])
    assert "┄" in chart
    if height > 20:
        assert " hand-written rule " in chart
        assert " random " in chart
    healthy = views.healthy()
    other = replace(healthy, run=replace(healthy.run, task="digits"))
    assert "┄" not in render_policy(other, width, height).plain


async def test_where_there_is_no_chart_the_guides_are_in_the_title(views, sanctum, seen):
    app = sanctum(views.view())
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        title = str(app.screen.query_one(PolicyPanel).border_title)
        assert title == "Policy · hand-written rule 0.78"


def test_help_is_in_words_first_and_the_id_and_source_come_last():
    table = render_records(records_of(ActionHeadsPanel()), DARK)
    for label, cell in zip(*(column._cells for column in table.columns), strict=True):
        if not str(label):
            continue
        assert not str(label).startswith("TELE-")
        first, *_, last = str(cell).splitlines()
        assert "?" in first
        assert last.startswith("TELE-")
        assert "measured in esper." in last


def test_every_head_has_one_line_that_says_what_it_decides():
    assert set(HEAD_MEANINGS) == set(HEAD_NAMES)
    assert len(render_heads(DARK).rows) == len(HEAD_NAMES) + 1
