"""`sanctum` and `sanctum serve`: watch a run on a terminal, in a picture or in a browser."""

import argparse
from pathlib import Path

from esper.commands.options import OptionError, Parser, add_run, add_run_dir, whole_number
from esper.leyline.command_lines import command_line
from esper.leyline.version import VERSION

#: As `esper.karn.sanctum` names its screens and themes, which is not loaded for the help.
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
        "--at", type=whole_number, metavar="UPDATE", help="show the run as it was after this update"
    )
    parser.add_argument("--once", action="store_true", help="print one frame as text and exit")
    parser.add_argument(
        "--line",
        action="store_true",
        help="print one line, for a status bar or a prompt, and exit like `esper health`: 0 if no "
        "light is on, 1 if one is, 2 if that is not known",
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
    from esper import launch

    for option in ("size", "screen"):
        if getattr(options, option) is not None and options.export is None:
            raise OptionError(f"--{option} only applies to --export")
    if options.export is not None and options.once:
        raise OptionError("--once and --export exclude each other: give one of them")

    if options.line and (options.once or options.export is not None):
        other = "--once" if options.once else "--export"
        raise OptionError(f"--line and {other} exclude each other: give one of them")
    if options.line:
        return launch.print_line(
            options.run_dir,
            options.run,
            at=options.at,
            theme=options.theme,
            ascii_only=options.ascii,
        )

    return launch.watch(
        options.run_dir,
        options.run,
        at=options.at,
        once=options.once,
        picture=options.export,
        size=options.size or (120, 40),
        screen=options.screen or "overview",
        theme=options.theme,
        ascii_only=options.ascii,
    )


def _serve(options: argparse.Namespace) -> int:
    from esper import launch

    return launch.serve(
        options.run_dir,
        options.run,
        host=options.host,
        port=options.port,
        token=options.token,
        token_file=options.token_file,
        theme=options.theme,
        ascii_only=options.ascii,
    )
