"""Sanctum without a terminal: one frame as text or as a picture."""

import asyncio
import html
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from esper.karn.sanctum.cockpit.observer import RunObserver
from esper.karn.sanctum.cockpit.picture_files import PICTURE_SUFFIXES, check_picture
from esper.karn.sanctum.cockpit.settings import Settings, ThemeName
from esper.karn.sanctum.fold.log_book import SEEDS
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.frame.run_header import FULL_HEIGHT, render_header
from esper.karn.sanctum.log.event_log_panel import render_log
from esper.karn.sanctum.overview.hosts_panel import render_hosts
from esper.karn.sanctum.overview.last_incident_panel import render_last_incident
from esper.karn.sanctum.overview.lights_panel import lines_wanted, render_lights
from esper.karn.sanctum.overview.logged_panel import render_logged
from esper.karn.sanctum.overview.master_status import render_reasons
from esper.karn.sanctum.overview.policy_panel import render_policy
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import render_heads
from esper.karn.text.palette import TERMINAL, Palette
from esper.leyline.files.durable_files import write_output

if TYPE_CHECKING:
    from textual.pilot import Pilot
    from textual.strip import Strip

    from esper.karn.sanctum.cockpit.app import SanctumApp

LOG_LINES_PRINTED: Final = 12
#: Time for panels to scroll to their end, which they do after the layout.
_SETTLING_SECONDS: Final = 0.1
#: A page with fixed cells: a sign from a fallback font, of any width, does not shift the rest of
#: its line.
_PAGE: Final = """\
<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Sanctum</title>
<style>
body {{ margin: 1em; background: {ground}; color: {ink} }}
pre {{ margin: 0; font-family: monospace; line-height: 1.2 }}
pre b, pre i {{ display: inline-block; height: 1.2em; vertical-align: top; font: inherit }}
pre i {{ width: 1ch }}
pre i.w {{ width: 2ch }}
{styles}
</style></head>
<body>
<pre><code>{lines}</code></pre>
</body>
</html>
"""
#: A piece of a page: text that any monospaced font has, or a single other sign.
_TOGETHER: Final = re.compile(r"[ -~]+|[^ -~]")

_BLANK: Final = "\N{NO-BREAK SPACE}"
#: A text of one style in one line of an SVG picture.
_PIECE: Final = re.compile(
    r'(?P<head><text class="[^"]*" )x="(?P<x>[\d.]+)"(?P<y> y="[\d.]+" )'
    r'textLength="(?P<length>[\d.]+)"(?P<tail>[^>]*)>(?P<text>[^<]*)</text>'
)
#: A part of such a text: separated by more than one blank.
_PART: Final = re.compile(rf"[^\s{_BLANK}]+(?:{_BLANK}[^\s{_BLANK}]+)*")


def render_once(view: View, width: int, palette: Palette = TERMINAL) -> Text:
    """Return the Overview as plain lines, one panel below the other."""
    snapshot = view.snapshot
    # Without seed transitions, as in the Overview.
    entries = tuple(entry for entry in snapshot.log if entry.kind != SEEDS)
    log = render_log(replace(snapshot, log=entries), width, view.now, palette)
    log_lines = log.split("\n")[-LOG_LINES_PRINTED:]
    panels = (
        _panels_of_watched(view, width, palette)
        if snapshot.run.is_watched
        else {
            "Action heads": render_heads(
                snapshot,
                width,
                palette=palette,
                acknowledgements=view.acknowledgements,
                doubt=view.doubt,
            ),
            "Policy": render_policy(snapshot, min(width, 100), palette=palette),
            # High enough for a line per host and the legend.
            "Hosts": render_hosts(snapshot, width, len(snapshot.hosts) + 8, palette),
        }
    )
    panels["Log"] = Text("\n", no_wrap=True).join(log_lines)
    parts = [
        render_reasons(view, width, palette),
        render_header(view, width, FULL_HEIGHT, palette),
    ]
    if view.doubt.sentence is not None:
        parts.append(Text(f"! {view.doubt.sentence}", style=f"bold {palette.warning}"))
    for title, body in panels.items():
        rule = f"── {title} ".ljust(width, "─")
        parts += [Text(rule, style=palette.muted, no_wrap=True), body]
    lines = [line for part in parts for line in part.split("\n", allow_blank=True)]
    for line in lines:
        line.rstrip()
    return Text("\n").join(lines)


def _panels_of_watched(view: View, width: int, palette: Palette) -> dict[str, Text]:
    """Return the panels of a watched run by their titles."""
    lights = render_lights(view, width, lines_wanted(view, width), palette)
    panels = {"Lights": lights}
    if incident := render_last_incident(view.snapshot, width, palette):
        panels["Last incident"] = incident
    panels["Figures"] = render_logged(view.snapshot, width, 0, palette)
    return {title: Text("\n", no_wrap=True).join(lines) for title, lines in panels.items()}


def export_frame(
    directory: Path,
    path: Path,
    size: tuple[int, int] = (120, 40),
    *,
    at: int | None = None,
    screen: str = "overview",
    theme: str = "dark",
    ascii_only: bool = False,
) -> View:
    """Write a picture of a screen over a run, as a terminal shows it, and return the view shown.

    Args:
        directory: the run's directory.
        path: the file to write; its suffix chooses the format: .svg, .html or .txt.
        size: columns and lines of the terminal.
        at: the update to show the state after; None for the newest state.
        screen: the title of the screen, upper or lower case.
        theme: one of `settings.THEME_NAMES`.
        ascii_only: whether to show ASCII characters only.

    Raises:
        PictureError: the suffix is none of these, or the folder does not exist.
        NoSuchScreenError: the run has nothing that the screen could show.
        OSError: the file cannot be written.
    """
    check_picture(path)
    from esper.karn.sanctum.cockpit.app import SanctumApp  # not needed to print a frame

    app = SanctumApp(
        directory,
        directory.parent,
        observer=RunObserver(directory, directory.parent, at=at),
        settings=Settings(
            theme=cast(ThemeName, theme),
            reduced_motion=True,
            bell=False,
            closing=False,
            ascii=ascii_only,
        ),
    )
    picture, view = asyncio.run(_picture(app, size, screen, _WRITERS[path.suffix]))
    write_output(path, picture)
    return view


async def _picture(
    app: "SanctumApp", size: tuple[int, int], screen: str, write: Callable[["SanctumApp"], str]
) -> tuple[str, View]:
    from esper.karn.sanctum.cockpit.screen_map import check_offered  # not needed to print a frame

    async with app.run_test(size=size) as pilot:
        await _until_shown(app, pilot)
        assert app.view is not None  # `is_complete` implies it
        check_offered(app.view.snapshot.run, screen.capitalize())
        if screen != "overview":
            app.action_open(screen.capitalize())
            await _until_shown(app, pilot)
        await pilot.pause(_SETTLING_SECONDS)
        return write(app), app.view


async def _until_shown(app: "SanctumApp", pilot: "Pilot[Any]") -> None:
    while not app.run_screen.is_complete:
        await pilot.pause(0.01)


def _as_svg(app: "SanctumApp") -> str:
    # Textual's picture loads its font from the web; without that, the viewer's own is used.
    picture = re.sub(r"@font-face\s*{.*?}", "", app.export_screenshot(), flags=re.DOTALL)
    return _PIECE.sub(_without_blanks, picture)


def _without_blanks(piece: re.Match[str]) -> str:
    """Return a piece of text of a picture as one or more texts with their own positions.

    Browsers stretch a text to its `textLength`. Other viewers do not; some also drop leading blanks
    or give blanks another width than signs.
    """
    text = html.unescape(piece["text"])
    # Rich counts one cell per sign here, also for signs of two cells.
    x, cell = float(piece["x"]), float(piece["length"]) / max(1, len(text))
    drawn = []
    for part in _PART.finditer(text):
        left, width = x + cell_len(text[: part.start()]) * cell, cell_len(part[0]) * cell
        shown = html.escape(part[0], quote=False).replace(_BLANK, "&#160;")
        place = f'x="{left:g}"{piece["y"]}textLength="{width:g}"'
        drawn.append(f"{piece['head']}{place}{piece['tail']}>{shown}</text>")
    return "".join(drawn)


def _as_html(app: "SanctumApp") -> str:
    theme = app.ansi_theme
    styles: dict[str, str] = {}  # CSS classes by their declarations
    lines = []
    for strip in _strips(app):
        pieces = []
        for text, style, control in strip:
            if control or not text:
                continue
            css = (style or Style.null()).get_html_style(theme)
            name = styles.setdefault(css, f"s{len(styles)}")
            pieces.append(f'<b class="{name}" style="width:{cell_len(text)}ch">{_cells(text)}</b>')
        lines.append("".join(pieces))
    return _PAGE.format(
        ground=app.theme_variables["background"],
        ink=app.theme_variables["foreground"],
        styles="\n".join(f"pre .{name} {{ {css} }}" for css, name in styles.items()),
        lines="\n".join(lines),
    )


def _cells(text: str) -> str:
    """Return a text as HTML, with each sign whose width may differ in its own cell."""
    parts: list[str] = []
    for part in _TOGETHER.findall(text):
        if parts and cell_len(part) == 0:
            parts[-1] += part  # combines with the sign before it
        else:
            parts.append(part)
    return "".join(map(_cell, parts))


def _cell(part: str) -> str:
    shown, width = html.escape(part, quote=False), cell_len(part)
    if part.isascii() or width > 2:
        return shown
    return f'<i class="w">{shown}</i>' if width == 2 else f"<i>{shown}</i>"


def _as_text(app: "SanctumApp") -> str:
    return "".join(strip.text.rstrip() + "\n" for strip in _strips(app))


def _strips(app: "SanctumApp") -> "list[Strip]":
    # Textual has no public way to read the screen except as its own picture.
    return app.screen._compositor.render_strips()


_WRITERS: Final = {".svg": _as_svg, ".html": _as_html, ".txt": _as_text}
assert tuple(_WRITERS) == PICTURE_SUFFIXES
