"""Starts this process as a rank of a run: rank 0 prepares the run, and the others join it.

torch is imported only afterwards, so rank 0 reports invalid settings immediately.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ctypes import CDLL
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esper.karn.store.rank_folders import Rank, create_rank_folder
from esper.karn.store.run_directory import CONFIG_NAME
from esper.leyline.errors import EsperError
from esper.services.launch.resume_auto import NothingLeftError
from esper.services.run_lock import HeldRun
from esper.simic.config import ConfigError, TrainingConfig
from esper.simic.training.process.stopping import StoppedAtOnce, StopRequest

if TYPE_CHECKING:
    from esper.simic.ranks.collectives import Ranks
    from esper.simic.ranks.meeting import Meeting, RunAnnouncement
    from esper.simic.ranks.peers import Hub, Spoke

_SET_PARENT_DEATH_SIGNAL: Final = 1  # PR_SET_PDEATHSIG in <linux/prctl.h>
#: Prepares the run; its argument is the path of the run before a restart, or empty.
Prepare = Callable[[str], HeldRun]


class RefusedElsewhereError(EsperError):
    """Rank 0 could not prepare the run; its process has reported why.

    Args:
        is_complete: whether the run is complete, which is not a failure.
    """

    def __init__(self, is_complete: bool) -> None:
        super().__init__("rank 0 could not prepare the run")
        self.is_complete = is_complete


class RankStart:
    """The start of one rank.

    Args:
        rank: rank of this process as set by the launcher.
        end_process: ends the process at once; its argument is a sentence with the reason. Called if
            the main thread does not respond because it waits for lost ranks.
    """

    def __init__(self, rank: Rank, end_process: Callable[[str], None]) -> None:
        self.rank = rank
        self._end_process = end_process
        self._meeting: Meeting | None = None
        self._announcement: RunAnnouncement | None = None
        _end_with_launcher()

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which prepares the run and prints for all ranks."""
        return self.rank.rank == 0

    def run(self, prepare: Prepare) -> HeldRun:
        """Return this rank's locked folder: for rank 0 the run's, for other ranks their own.

        Args:
            prepare: prepares the run; called only in rank 0.

        Raises:
            RefusedElsewhereError: in other ranks, if rank 0 could not prepare the run.
            MeetingError: the ranks cannot connect.
            EsperError: raised by `prepare`.
        """
        if self.is_first:
            return self._prepared(prepare)
        from esper.simic.ranks.meeting import Refused

        try:
            self._announcement = self._met().wait_for_run()
        except Refused as error:
            raise RefusedElsewhereError(error.is_complete) from error
        run = Path(self._announcement.run)
        try:
            folder = create_rank_folder(run, self.rank.rank)
            (folder / CONFIG_NAME).write_text(self._announcement.config)
        except OSError as error:
            raise ConfigError(f"cannot write into {run}: {error.strerror}") from error
        return HeldRun(folder)

    def _prepared(self, prepare: Prepare) -> HeldRun:
        before = ""
        if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
            before = self._met().run_before_restart()
        try:
            return prepare(before)
        except EsperError as error:
            self._refuse(isinstance(error, NothingLeftError))
            raise

    def _refuse(self, is_complete: bool) -> None:
        """Announce to the waiting ranks that there is no run."""
        from esper.simic.ranks.meeting import MeetingError, RunAnnouncement

        with suppress(MeetingError, RuntimeError):
            self._met().announce(RunAnnouncement(run="", is_complete=is_complete))

    @contextmanager
    def joined(self, config: TrainingConfig, run: Path, stop: StopRequest) -> "Iterator[Ranks]":
        """Join the other ranks within the context; on leaving, inform them how this rank ended.

        Args:
            config: the run's settings.
            run: the run's directory; used in rank 0.
            stop: stop requests of this process; requests from other ranks are added.

        Raises:
            MeetingError: the process group cannot be initialised.
        """
        from esper.simic.ranks.meeting import RunAnnouncement
        from esper.simic.training.ranks.rank_news import RankNews

        meeting, news = self._met(), RankNews(stop, self._end_process)
        if self.is_first:
            hub = meeting.hub(news)
            announcement = RunAnnouncement(
                run=str(run.absolute()),
                config=(run / CONFIG_NAME).read_text(),
                pid=os.getpid(),
                machine=hub.name.machine,
                port=hub.port,
                token=hub.token,
            )
            meeting.announce(announcement)
            peers: Hub | Spoke = hub
        else:
            assert self._announcement is not None
            peers = meeting.spoke(self._announcement, news)
        stop.when_at_once(peers.ask_to_stop)
        stop.when_checkpoint_wanted(peers.ask_for_checkpoint)
        failure = ""
        try:
            yield meeting.join(config.device, stop.check)
            if not stop.at_once:
                meeting.leave()
        except StoppedAtOnce:
            raise
        except BaseException as error:
            failure = f"{type(error).__name__}: {error}"
            raise
        finally:
            peers.close(failure)

    def _met(self) -> "Meeting":
        if self._meeting is None:
            from esper.simic.ranks.meeting import Meeting, launch_of_environment

            rank = self.rank
            launch = launch_of_environment(rank.rank, rank.world_size, rank.local_rank)
            self._meeting = Meeting(launch)
        return self._meeting


def _end_with_launcher() -> None:
    """Let the system stop this process (resumably) when torchrun is killed. Linux only."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        with suppress(AttributeError, OSError):
            CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGTERM))
