"""The commands `esper` and `sanctum`: what can be asked for, in verbs. The work is done elsewhere.

Nothing here imports torch or Textual until a verb needs it, so that help comes at once. The options
of `esper ppo` are the fields of `TrainingConfig`, made from it (with argparse: importing tyro alone
takes longer than help may take in all).
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from esper import __version__
from esper.karn.run_directory import default_run_dir
from esper.leyline.task_names import BUILT_IN, WITH_PLACE
from esper.simic.baseline_names import BASELINES, parse_baselines
from esper.simic.config import TrainingConfig

#: As `esper.karn.sanctum` names its screens and themes, which is not loaded for the help.
SCREENS = ("overview", "heads", "hosts", "decisions", "log", "runs")
THEMES = ("dark", "light", "ansi", "contrast")


class OptionError(ValueError):
    """Options that do not go together; one clear sentence."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message: str) -> NoReturn:
        message = message.replace(", '_train'", "")  # started by the program, not by people
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `esper`."""
    _run(_esper_parser(), arguments)


def sanctum_main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `sanctum`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if tuple(arguments[:1]) == ("serve",):
        _run(_serve_parser(), arguments[1:])
    _run(_sanctum_parser(), arguments)


def _run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> NoReturn:
    """Parse, do, and exit; what somebody asked for in error becomes one sentence and exit code 2.

    Everything that means bad input is a ValueError of a class of its own, defined in `esper`; any
    other exception is a fault of the program and keeps its traceback.
    """
    options = parser.parse_args(arguments)
    # A reader of a pipe that had enough ends a report as it ends any other program: an exit code
    # of our own would be taken for the report's verdict. Training outlives its readers.
    is_report = options.verb not in (_ppo, _train_child)
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL if is_report else signal.SIG_IGN)
    try:
        code: int = options.verb(options)
        sys.stdout.flush()
    except ValueError as error:
        if not type(error).__module__.startswith("esper."):
            raise
        print(f"{parser.prog}: {error}", file=sys.stderr)
        code = 2
    finally:
        signal.signal(signal.SIGPIPE, before)
    sys.exit(code)


def _esper_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="esper",
        description="Train an agent that grows neural networks, and know which of its action heads "
        "ever produced an Inf or a NaN.",
        epilog="Watch a run with: sanctum [RUN]",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"esper {__version__}")
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_ppo(verbs)
    runs = _add_verb(verbs, "runs", _runs, "list all runs with their status and lights")
    _add_run_dir(runs)
    health = _add_verb(
        verbs, "health", _health, "say which heads ever went non-finite; exit code 1 if any did"
    )
    _add_run(health)
    _add_run_dir(health)
    health.add_argument("--json", action="store_true", help="print JSON")
    health.add_argument(
        "--fail-on",
        default="inf,nan",
        metavar="KINDS",
        help="latches that make the exit code 1: inf, nan, inf,nan, or '' for none "
        "(default: %(default)s)",
    )
    incidents = _add_verb(
        verbs, "incidents", _incidents, "list the updates of a run that were not finite"
    )
    _add_run(incidents)
    _add_run_dir(incidents)
    incidents.add_argument("--json", action="store_true", help="print JSON")
    _add_replay(verbs)
    _add_eval(verbs)
    _add_grow(verbs)
    telemetry = _add_verb(
        verbs, "telemetry", _telemetry, "list the telemetry records, or show one with its wiring"
    )
    telemetry.add_argument(
        "record", nargs="?", metavar="RECORD", help="a record's id, for example TELE-303"
    )
    telemetry.add_argument(
        "--write-docs", type=Path, metavar="DIR", help="write one page per record into DIR"
    )
    # Started by `esper ppo` behind Sanctum; without help, so that it is not listed.
    child = verbs.add_parser("_train", allow_abbrev=False)
    child.add_argument("run", type=Path)
    child.set_defaults(verb=_train_child)
    return parser


def _sanctum_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sanctum",
        description="Watch a run: live, finished or dead. Nothing is written into it.",
        epilog="Watch it in a browser with: sanctum serve [RUN]",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sanctum {__version__}")
    _add_run(parser)
    _add_run_dir(parser)
    _add_look(parser)
    parser.add_argument(
        "--at", type=_whole_number, metavar="UPDATE", help="show the run as it was after an update"
    )
    parser.add_argument("--once", action="store_true", help="print one frame and exit")
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FILE",
        help="write a picture of the screen, as FILE.svg, FILE.html or FILE.txt, and exit",
    )
    parser.add_argument(
        "--screen",
        choices=SCREENS,
        help="which screen the picture is of (with --export; default: overview)",
    )
    parser.add_argument(
        "--size",
        type=_size,
        metavar="COLUMNSxROWS",
        help="size of the picture (with --export; default: 120x40)",
    )
    parser.set_defaults(verb=_sanctum)
    return parser


def _serve_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sanctum serve",
        description="Show Sanctum in a browser of this machine. Nothing is loaded from outside.",
        allow_abbrev=False,
    )
    _add_run(parser)
    _add_run_dir(parser)
    _add_look(parser)
    parser.add_argument(
        "--host",
        default="localhost",
        help="the address to serve at; one that other machines reach needs --token "
        "(default: %(default)s)",
    )
    parser.add_argument("--port", type=_whole_number, default=8000, help="default: %(default)s")
    parser.add_argument("--token", metavar="SECRET", help="asked of everybody who opens it")
    parser.set_defaults(verb=_serve)
    return parser


def _add_look(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--theme",
        choices=THEMES,
        help="colours to show it in (default: as it was left); NO_COLOR goes over it",
    )
    parser.add_argument(
        "--ascii", action="store_true", help="show no character beyond ASCII on the screen"
    )


def _add_verb(
    verbs: Any, name: str, verb: Callable[[argparse.Namespace], int], help_text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=help_text, description=help_text.capitalize() + ".", allow_abbrev=False
    )
    parser.set_defaults(verb=verb)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="an id, its unique beginning, a name or a path; default the newest",
    )


def _add_run_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run-dir",
        type=Path,
        default=default_run_dir(),
        metavar="DIR",
        help="the folder that holds runs (default: ESPER_RUN_DIR, or runs)",
    )


def _add_ppo(verbs: Any) -> None:
    parser = _add_verb(
        verbs, "ppo", _ppo, "train the agent; on a terminal, Sanctum opens and shows it"
    )
    _add_run_dir(parser)
    parser.add_argument("--name", default="", help="a name for the run, part of its id")
    parser.add_argument(
        "--config", type=Path, metavar="FILE.toml", help="settings; options go over them"
    )
    parser.add_argument(
        "--no-sanctum", action="store_true", help="train in the foreground with plain progress"
    )
    parser.add_argument(
        "--resume", metavar="RUN", help="go on with a run that was stopped, killed or finished"
    )
    settings = parser.add_argument_group("settings, also keys of --config")
    for setting in fields(TrainingConfig):
        option = "--" + setting.name.replace("_", "-")
        help_text = setting.metadata["help"].replace("%", "%%")
        if setting.default == ():
            settings.add_argument(
                option,
                action="append",
                default=argparse.SUPPRESS,
                dest=setting.name,
                metavar="SPEC",
                help=help_text,
            )
            continue
        kind, metavar = _OPTION_TYPES[type(setting.default)]
        choices = setting.metadata["choices"]
        settings.add_argument(
            option,
            type=kind,
            choices=choices,
            default=argparse.SUPPRESS,
            dest=setting.name,
            metavar="|".join(choices) if choices else metavar,
            help=f"{help_text} (default: {setting.default})",
        )


def _add_replay(verbs: Any) -> None:
    parser = _add_verb(
        verbs,
        "replay",
        _replay,
        "make an incident happen again and say where it began; exit code 1 if it does not",
    )
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="an id, its unique beginning, a name or a path, also that of a single capsule's "
        "folder; default the newest",
    )
    parser.add_argument(
        "number",
        nargs="?",
        type=_whole_number,
        metavar="N",
        help="number of the incident, as `esper incidents` lists them; default the first",
    )
    parser.add_argument(
        "--update",
        type=_whole_number,
        metavar="U",
        help="the incident of this update, instead of N",
    )
    _add_run_dir(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write the report as one page of HTML, too"
    )


def _add_eval(verbs: Any) -> None:
    parser = _add_verb(
        verbs, "eval", _eval, "compare the learnt policy with baselines on seeds never trained on"
    )
    parser.add_argument(
        "policies",
        nargs="*",
        metavar="POLICY",
        help="a run (an id, a unique prefix or a path), a checkpoint's path, or shipped: the one "
        "that comes with Esper; default the newest run; several are told of together",
    )
    _add_run_dir(parser)
    parser.add_argument(
        "--episodes",
        type=_whole_number,
        default=64,
        metavar="N",
        help="fresh episodes that every contestant lives through (default: %(default)s)",
    )
    parser.add_argument(
        "--against",
        default=",".join(BASELINES),
        metavar="LIST",
        help="baselines, with commas between (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=_whole_number,
        default=0,
        metavar="N",
        help="seed of the evaluation (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.svg", help="draw accuracy against parameters and cost"
    )


def _add_grow(verbs: Any) -> None:
    parser = _add_verb(
        verbs, "grow", _grow, "let the learnt policy grow a network and write it as a torch module"
    )
    parser.add_argument(
        "--task",
        required=True,
        metavar="TASK",
        help=f"what the network is to learn: {', '.join((*BUILT_IN, *WITH_PLACE))}",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="a new folder for the network"
    )
    parser.add_argument(
        "--policy",
        default="shipped",
        metavar="POLICY",
        help="a run (an id, a unique prefix or a path), a checkpoint's path, or shipped: the one "
        "that comes with Esper (default: %(default)s)",
    )
    _add_run_dir(parser)
    parser.add_argument(
        "--hosts",
        type=_whole_number,
        default=1,
        metavar="K",
        help="networks to grow; the best by validation accuracy is written (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=_whole_number,
        default=0,
        metavar="S",
        help="seed of everything random (default: %(default)s)",
    )
    parser.add_argument(
        "--steps",
        type=_whole_number,
        metavar="N",
        help="steps to grow for; default as many as the policy was trained for",
    )


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None


def _size(text: str) -> tuple[int, int]:
    columns, _, rows = text.partition("x")
    if not (columns.isdecimal() and rows.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be like 120x40, not {text!r}")
    if not (72 <= int(columns) <= 500 and 23 <= int(rows) <= 200):
        raise argparse.ArgumentTypeError(f"must be from 72x23 to 500x200, not {text}")
    return int(columns), int(rows)


_OPTION_TYPES: dict[type, tuple[Callable[[str], Any], str]] = {
    int: (_whole_number, "N"),
    float: (_number, "X"),
    str: (str, "TEXT"),
}


def _ppo(options: argparse.Namespace) -> int:
    from esper import launch

    given = {
        setting.name: getattr(options, setting.name)
        for setting in fields(TrainingConfig)
        if hasattr(options, setting.name)
    }
    if options.resume is not None:
        run = launch.prepare_resume(
            options.run_dir, options.resume, given, config_file=options.config, name=options.name
        )
    else:
        run = launch.prepare_run(options.run_dir, options.name, given, options.config)
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if options.no_sanctum or not on_terminal:
        return launch.train_in_front(run)
    return launch.train_behind_sanctum(run, options.run_dir)


def _train_child(options: argparse.Namespace) -> int:
    from esper import launch

    return launch.train_child(options.run)


def _runs(options: argparse.Namespace) -> int:
    from esper.karn import reports

    return reports.print_runs(options.run_dir)


def _health(options: argparse.Namespace) -> int:
    from esper.karn import reports

    return reports.print_health(
        options.run_dir, options.run, as_json=options.json, fail_on=options.fail_on
    )


def _incidents(options: argparse.Namespace) -> int:
    from esper import launch

    return launch.print_incidents(options.run_dir, options.run, as_json=options.json)


def _replay(options: argparse.Namespace) -> int:
    from esper import launch

    if options.number is not None and options.update is not None:
        raise OptionError("N and --update both choose the incident: give one of them")
    return launch.replay_incident(
        options.run_dir,
        options.run,
        options.number,
        update=options.update,
        as_json=options.json,
        page=options.html,
    )


def _eval(options: argparse.Namespace) -> int:
    from esper import policies

    return policies.evaluate_policies(
        options.run_dir,
        options.policies,
        episodes=options.episodes,
        against=parse_baselines(options.against),
        seed=options.seed,
        as_json=options.json,
        picture=options.plot,
    )


def _grow(options: argparse.Namespace) -> int:
    from esper import policies

    return policies.grow_network(
        options.run_dir,
        options.policy,
        options.task,
        options.out,
        hosts=options.hosts,
        seed=options.seed,
        steps=options.steps,
    )


def _telemetry(options: argparse.Namespace) -> int:
    from esper.karn import reports

    if options.write_docs is not None:
        return reports.write_telemetry_docs(options.write_docs)
    return reports.print_telemetry(options.record)


def _sanctum(options: argparse.Namespace) -> int:
    from esper import launch

    for option in ("size", "screen"):
        if getattr(options, option) is not None and options.export is None:
            raise OptionError(f"--{option} is of a picture: it goes with --export FILE.svg")
    if options.export is not None and options.once:
        raise OptionError("--once prints a frame, and --export writes one: give one of them")

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
        theme=options.theme,
        ascii_only=options.ascii,
    )
