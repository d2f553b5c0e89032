"""`esper ppo`: train the agent in a new run, or resume one.

The options are the fields of `TrainingConfig`. They are built with argparse, because importing tyro
would make the help too slow.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.commands.data.mirror import add_log_to, mirrored
from esper.commands.folder.alert import add_alert_config
from esper.commands.options import OptionError, add_run_dir, add_verb, whole_number
from esper.commands.output import print_warning
from esper.karn.store.rank_folders import Rank, rank_of_environment
from esper.karn.terminal import is_screen
from esper.leyline.errors import EsperError
from esper.leyline.settings import declared_settings
from esper.services.launch.alert_process import alert_config, start_alerts
from esper.services.launch.mirror_process import check_trackers
from esper.simic.config import TrainingConfig, option_of, setting_names

if TYPE_CHECKING:
    from esper.services.run_lock import HeldRun


def add_ppo(verbs: Any) -> None:
    """Add `ppo` to the verbs of `esper`."""
    parser = add_verb(verbs, "ppo", ppo, "train the agent, and show it in Sanctum on a terminal")
    add_run_dir(parser)
    parser.add_argument("--name", default="", help="name of the run; becomes part of its id")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE.toml",
        help="settings file; command-line options override it",
    )
    parser.add_argument(
        "--no-sanctum", action="store_true", help="print plain progress and do not open Sanctum"
    )
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="resume a run: an id, a name or a path; auto: the newest run of --name, or a new one",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="with --resume: resume even if another machine seems to be training the run",
    )
    parser.add_argument(
        "--data-changed",
        action="store_true",
        help="with --resume: resume even if the data of the task has changed",
    )
    add_log_to(parser)
    add_alert_config(parser)
    settings = parser.add_argument_group("settings (also keys of the --config file)")
    for setting in declared_settings(TrainingConfig).values():
        name = setting.name
        option = option_of(name)
        help_text = setting.help.replace("%", "%%")
        if setting.default == ():
            settings.add_argument(
                option,
                action="append",
                default=argparse.SUPPRESS,
                dest=name,
                metavar="SPEC",
                help=help_text,
            )
            continue
        kind, metavar = _OPTION_TYPES[type(setting.default)]
        choices = setting.choices or None
        settings.add_argument(
            option,
            type=kind,
            choices=choices,
            default=argparse.SUPPRESS,
            dest=name,
            metavar="|".join(choices) if choices else metavar,
            help=f"{help_text} (default: {setting.default})",
        )


def add_train_child(verbs: Any) -> None:
    """Add `_train`, which `esper ppo` starts behind Sanctum; the help does not list it."""
    child = verbs.add_parser("_train", allow_abbrev=False)
    child.add_argument("run", type=Path)
    child.add_argument("--lock", type=int)
    child.set_defaults(verb=train_child)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None


_OPTION_TYPES: dict[type, tuple[Callable[[str], Any], str]] = {
    int: (whole_number, "N"),
    float: (_number, "X"),
    str: (str, "TEXT"),
}


def ppo(options: argparse.Namespace) -> int:
    """Run `esper ppo` with these options; return the exit code."""
    from esper.services.launch.resume_auto import NothingLeftError

    try:
        rank = rank_of_environment()
        return _ppo(options) if rank.is_alone else _ppo_as_rank(options, rank)
    except NothingLeftError as error:
        print_warning(str(error))
        return 0


def _ppo(options: argparse.Namespace) -> int:
    """Train in this process, or in one behind Sanctum."""
    check_trackers(options.log_to)
    alerts = alert_config(options.alert_config)
    with _prepared(options) as run, mirrored(run.directory, options.log_to) as mirror:
        if sentence := start_alerts(run.directory, alerts):
            print_warning(sentence)
        if options.no_sanctum or not is_screen():
            from esper.commands.ppo.in_front import train_in_front

            return train_in_front(run)
        from esper.commands.ppo.behind_sanctum import train_behind_sanctum

        code = train_behind_sanctum(run, options.run_dir)
        if code is None:
            mirror.detach()
        return code or 0


def _ppo_as_rank(options: argparse.Namespace, rank: Rank) -> int:
    """Train as one of several ranks; only rank 0 prints errors in the options."""
    from esper.commands.ppo.rank import check_rank_options, train_as_rank

    try:
        check_rank_options(options, rank)
        check_trackers(options.log_to)
        alerts = alert_config(options.alert_config)
    except EsperError:
        if rank.rank:
            return 2
        raise

    def prepare(before: str) -> "HeldRun":
        if before:  # torchrun has restarted the ranks: resume the run from before the restart
            options.resume, options.name, options.config = before, "", None
        return _prepared(options)

    return train_as_rank(options, rank, prepare, alerts)


def _prepared(options: argparse.Namespace) -> "HeldRun":
    """Return a new run, or the one to resume.

    Raises:
        NothingLeftError: with --resume auto, the run has trained all its episodes.
        EsperError: the run cannot be created or resumed.
    """
    given = {name: getattr(options, name) for name in setting_names() if hasattr(options, name)}
    from esper.services.launch.resume_auto import AUTO, prepare_newest

    how: dict[str, Any] = {
        "config_file": options.config,
        "name": options.name,
        "report": print_warning,
        "force": options.force,
        "data_changed": options.data_changed,
    }
    if options.resume == AUTO:
        return prepare_newest(options.run_dir, given, **how)
    if options.resume is not None:
        from esper.services.launch.resume import prepare_resume

        return prepare_resume(options.run_dir, options.resume, given, **how)
    if options.force or options.data_changed:
        option = "--force" if options.force else "--data-changed"
        raise OptionError(f"{option} only applies to --resume")
    from esper.services.launch.new_run import prepare_run

    return prepare_run(options.run_dir, options.name, given, options.config)


def train_child(options: argparse.Namespace) -> int:
    """Train as the process behind Sanctum; return the exit code."""
    from esper.commands.ppo.in_front import train_behind

    return train_behind(options.run, options.lock)
