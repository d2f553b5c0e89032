"""`sanctum` and `sanctum serve`: watch a run on a terminal, in a picture or in a browser."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from esper.commands.options import OptionError, Parser, add_run, add_run_dir, whole_number
from esper.commands.output import print_warning
from esper.karn.store.errors import RunStoreError
from esper.karn.store.run_directory import RunNotFoundError, find_run
from esper.karn.terminal import is_screen
from esper.leyline.text.command_lines import command_line, install_command
from esper.leyline.version import VERSION

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from esper.karn.sanctum.fold.view import View
    from esper.karn.text.palette import Palette

#: The names of screens and themes in `esper.karn.sanctum`, which is not loaded for the help.
SCREENS = ("overview", "heads", "hosts", "decisions", "log", "runs")
THEMES = ("dark", "light", "ansi", "contrast")


def sanctum_parser() -> argparse.ArgumentParser:
    """Return the options of `sanctum`."""
    parser = Parser(
        prog="sanctum",
        description="Watch a live, finished or crashed run. Nothing is written into the run.",
        epilog=f"In a browser: {command_line('sanctum', 'serve')} [RUN]",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sanctum {VERSION}")
    add_run(parser)
    add_run_dir(parser)
    _add_look(parser)
    parser.add_argument(
        "--at",
        type=whole_number,
        metavar="UPDATE",
        help="show the state of the run after this update",
    )
    parser.add_argument("--once", action="store_true", help="print one frame as text and exit")
    parser.add_argument(
        "--line",
        action="store_true",
        help="print one line, for a status bar or a prompt, and exit like `esper health`: 0 if all "
        "was finite, 1 after NaN or Inf or if training stalled, 2 if that is unknown",
    )
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FILE",
        help="write the screen to FILE.svg, FILE.html or FILE.txt and exit",
    )
    parser.add_argument(
        "--screen",
        choices=SCREENS,
        help="screen to export (with --export; default: overview)",
    )
    parser.add_argument(
        "--size",
        type=_size,
        metavar="COLUMNSxROWS",
        help="size of the export in cells (with --export; default: 120x40)",
    )
    parser.set_defaults(verb=_sanctum)
    return parser


def serve_parser() -> argparse.ArgumentParser:
    """Return the options of `sanctum serve`."""
    parser = Parser(
        prog="sanctum serve",
        description="Serve Sanctum to a browser. Nothing is loaded from the internet.",
        allow_abbrev=False,
    )
    add_run(parser)
    add_run_dir(parser)
    _add_look(parser)
    parser.add_argument(
        "--host",
        default="localhost",
        help="address to listen on; an address that other machines can reach needs --token "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=whole_number, default=8000, help="port to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--token",
        metavar="SECRET",
        help="secret that every page needs; visible to other users in the process list, so "
        "--token-file is safer (default: SANCTUM_TOKEN, or a new one, which is printed)",
    )
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="read the token from this file"
    )
    parser.set_defaults(verb=_serve)
    return parser


def _add_look(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--theme",
        choices=THEMES,
        help="colour theme (default: the last one used); NO_COLOR overrides it",
    )
    parser.add_argument("--ascii", action="store_true", help="use ASCII characters only")


def _size(text: str) -> tuple[int, int]:
    columns, _, rows = text.partition("x")
    if not (columns.isdecimal() and rows.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be like 120x40, not {text!r}")
    if not (72 <= int(columns) <= 500 and 23 <= int(rows) <= 200):
        raise argparse.ArgumentTypeError(f"must be from 72x23 to 500x200, not {text}")
    return int(columns), int(rows)


def _sanctum(options: argparse.Namespace) -> int:
    _check_combination(options)
    if options.line:
        return print_status_line(
            find_run(options.run_dir, options.run),
            at=options.at,
            theme=options.theme,
            ascii_only=options.ascii,
        )
    is_once = options.once or not is_screen()
    needs_run = is_once or options.export is not None or options.at is not None
    run = _run_or_newest(options, needs_run=needs_run)
    if options.export is not None:
        assert run is not None
        return _export(run, options)
    if is_once:
        assert run is not None
        return _print_frame(run, options)
    if run is not None and options.at is not None:
        _check_update(run, options.at)
    from esper.karn.sanctum.cockpit.opening import run_sanctum

    run_sanctum(run, options.run_dir, at=options.at, theme=options.theme, ascii_only=options.ascii)
    return 0


def _check_combination(options: argparse.Namespace) -> None:
    for option in ("size", "screen"):
        if getattr(options, option) is not None and options.export is None:
            raise OptionError(f"--{option} only applies to --export")
    if options.export is not None and options.once:
        raise OptionError("--once and --export exclude each other: give one of them")
    if options.line and (options.once or options.export is not None):
        other = "--once" if options.once else "--export"
        raise OptionError(f"--line and {other} exclude each other: give one of them")


def _run_or_newest(options: argparse.Namespace, *, needs_run: bool) -> Path | None:
    """Return the run to show; None to wait for the first one.

    Raises:
        RunNotFoundError: there is no such run, and one was named or is needed.
    """
    try:
        return find_run(options.run_dir, options.run)
    except RunNotFoundError:
        if options.run is not None or needs_run:
            raise
        return None


def _check_update(run: Path, at: int) -> None:
    """Check the number of an update before a screen opens.

    Raises:
        UpdateNotFoundError: the run has no such update.
    """
    from esper.karn.sanctum.cockpit.observer import read_view

    read_view(run, at=at)


def _export(run: Path, options: argparse.Namespace) -> int:
    from esper.karn.sanctum.cockpit.picture_files import check_picture

    check_picture(options.export)
    if options.at is not None:
        _check_update(run, options.at)
    from esper.karn.sanctum.cockpit.capture import export_frame

    try:
        view = export_frame(
            run,
            options.export,
            options.size or (120, 40),
            at=options.at,
            screen=options.screen or "overview",
            theme=options.theme or "dark",
            ascii_only=options.ascii,
        )
    except OSError as error:
        raise OptionError(f"cannot write {options.export}: {error.strerror}") from error
    return _check_known(view)


def _print_frame(run: Path, options: argparse.Namespace) -> int:
    if options.at is not None:
        _check_update(run, options.at)
    return _check_known(
        print_once(run, at=options.at, theme=options.theme, ascii_only=options.ascii)
    )


def print_once(
    directory: Path,
    *,
    console: "Console | None" = None,
    now: float | None = None,
    at: int | None = None,
    theme: str | None = None,
    ascii_only: bool = False,
) -> "View":
    """Print one frame of a run, as wide as the console, and return the view shown.

    Args:
        directory: the run's directory.
        console: where to print; standard output by default.
        now: seconds since the epoch; the current time by default.
        at: the update to show the state after; None for the newest state.
        theme: one of `THEMES`; the terminal's own colours by default.
        ascii_only: whether to print ASCII characters only.

    Raises:
        UpdateNotFoundError: the run has no such update.
    """
    from esper.karn.sanctum.cockpit.capture import render_once
    from esper.karn.sanctum.cockpit.observer import read_view
    from esper.karn.text.plain_console import PlainConsole

    console = console or PlainConsole(highlight=False)
    view = read_view(directory, now, at)
    frame = render_once(view, console.width, _palette(theme))
    console.print(_in_ascii(frame) if ascii_only else frame, soft_wrap=True)
    return view


def print_status_line(
    directory: Path,
    *,
    console: "Console | None" = None,
    at: int | None = None,
    theme: str | None = None,
    ascii_only: bool = False,
) -> int:
    """Print a run as one line; return 1 if a light is on, else 0.

    Status bars call this every few seconds, so Textual is only loaded for a theme.

    Args:
        directory: the run's directory.
        console: where to print; standard output by default.
        at: the update to show the state after; None for the newest state.
        theme: one of `THEMES`; the terminal's own colours by default.
        ascii_only: whether to print ASCII characters only.

    Raises:
        UpdateNotFoundError: the run has no such update.
        RunStoreError: no light is known to be on, but one may be.
    """
    from esper.karn.sanctum.cockpit.observer import read_view
    from esper.karn.sanctum.fold.attention import lights_on
    from esper.karn.sanctum.frame.status_line import render_line
    from esper.karn.text.plain_console import PlainConsole

    console = console or PlainConsole(highlight=False)
    view = read_view(directory, None, at)
    line = render_line(view, None, _palette(theme))
    console.print(_in_ascii(line) if ascii_only else line, soft_wrap=True)
    if lights_on(view.snapshot):
        return 1
    if not view.snapshot.last_event_id and view.doubt.lights is None:
        raise RunStoreError(f"{directory.name} has no events yet, so its health is not known")
    return _check_known(view)


def _palette(theme: str | None) -> "Palette":
    from esper.karn.text.palette import TERMINAL

    if theme is None:
        return TERMINAL
    from esper.karn.sanctum.drawing.themes import palette_of, theme_called  # with it comes Textual

    return palette_of(theme_called(theme))


def _in_ascii(frame: "Text") -> "Text":
    from rich.text import Text

    from esper.karn.sanctum.drawing.ascii import text_in_ascii

    return Text("\n").join(map(text_in_ascii, frame.split("\n", allow_blank=True)))


def _check_known(view: "View") -> int:
    """Return 0 if the run was read completely; the frame shows what is missing, too.

    Raises:
        RunStoreError: the store cannot be read, or an event in it.
    """
    if view.doubt.lights is not None:
        raise RunStoreError(view.doubt.sentence or view.doubt.lights)
    return 0


def _serve(options: argparse.Namespace) -> int:
    from esper.karn.sanctum.served.options import ServeError, ServeOptions, token_from

    token = token_from(options.token, options.token_file)
    serve_options = ServeOptions(options.host, options.port, token, options.theme, options.ascii)
    run = _run_or_newest(options, needs_run=False)
    try:
        from esper.karn.sanctum.served import server
    except ModuleNotFoundError as error:
        raise ServeError(
            f"sanctum serve needs {error.name}, which comes with: {install_command('serve')}"
        ) from error
    server.serve(
        serve_options,
        options.run_dir,
        run,
        announce=lambda line: print(line, flush=True),
        warn=print_warning,
    )
    return 0
