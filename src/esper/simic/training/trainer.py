"""Training: collect a batch of episodes, update, watch, write a checkpoint, and repeat."""

import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch

from esper.growth.environment.host_process import HostProcessError
from esper.leyline.errors import EsperError
from esper.leyline.files.checkpoint_file import (
    CHECKPOINTS_NAME,
)
from esper.leyline.telemetry import EpisodesCompleted, RunFinished
from esper.simic.agent.agreement import ALONE
from esper.simic.agent.drill_hook import update_with_drills
from esper.simic.agent.figures import UpdateResult
from esper.simic.config import TrainingConfig, settings_of
from esper.simic.drill import Injection, parse_injection, scheduled
from esper.simic.environment import resolve_device
from esper.simic.ranks.collectives import RankLostError, Ranks
from esper.simic.replay.incidents import IncidentLedger
from esper.simic.telemetry.emitters import EventWriter, emit_episodes, emit_ppo_update_event
from esper.simic.training.checkpoint import Checkpoint, done_on_disk, last_good
from esper.simic.training.checkpoint_writer import CheckpointWriter
from esper.simic.training.collecting import Batch, collect, episode_seeds
from esper.simic.training.faults.incident_recording import capsule_of, record_incident
from esper.simic.training.faults.intervention import Action, Escalation
from esper.simic.training.faults.recovery import Intervention, Recovery
from esper.simic.training.host_pool import HostPool
from esper.simic.training.learning_rate import learning_rate_after
from esper.simic.training.process.stopping import StoppedAtOnce, StopRequest
from esper.simic.training.progress import ProgressReport
from esper.simic.training.ranks.faults_by_rank import report_faults_by_rank, use_one_state
from esper.simic.training.ranks.host_sharing import HostSharing
from esper.simic.training.ranks.shared_state import NotedCheckpoints, load_for_all
from esper.simic.training.run_data import change_sentences
from esper.simic.training.run_log import RunLog
from esper.simic.training.run_start import (
    check_checkpoint,
    compare_data,
    describe_task,
    load_data,
    make_agent,
    run_started,
    start_line,
)


def train(
    config: TrainingConfig,
    run: Path,
    writer: EventWriter,
    progress: ProgressReport,
    stop: StopRequest,
    ranks: Ranks | None = None,
) -> RunFinished:
    """Train until all episodes are done or a stop is requested; resume from the newest checkpoint.

    Args:
        config: the run's settings.
        run: the run's directory, which holds its checkpoints; with several ranks that of this one.
        writer: receives every telemetry event.
        progress: console progress reporter.
        stop: set when the user asked training to stop.
        ranks: the ranks of the run; None for a process that trains alone.

    Returns:
        The end event that was written to the store.

    Raises:
        ConfigError, CheckpointError: before training begins.
    """
    trainer: Trainer | None = None
    try:
        trainer = Trainer(config, run, writer, progress, stop, ranks)
        ending = trainer.run()
    except BaseException as error:  # KeyboardInterrupt, too
        # The store records every ending; only a fault of the program is raised again.
        update, episodes_done = trainer.done if trainer else done_on_disk(run)
        interrupted = isinstance(error, KeyboardInterrupt)
        worker_died = isinstance(error, HostProcessError | RankLostError)
        reason = f"{type(error).__name__}: {error}"
        if (interrupted or worker_died) and trainer is not None:
            trainer.checkpoints.write_held()
        if stop.lost:
            interrupted, worker_died, reason = False, True, stop.lost
        elif isinstance(error, StoppedAtOnce):
            reason = "asked to stop before training began; the run can be resumed"
        elif interrupted or worker_died:
            reason = f"{'interrupted' if interrupted else error}; the current batch is lost"
        elif isinstance(error, ValueError):
            reason = str(error)
        ending = RunFinished(
            status="stopped" if interrupted else "failed",
            update=update,
            episodes_done=episodes_done,
            reason=reason,
        )
        progress.say(f"{ending.status}: {ending.reason}")
        if not (interrupted or worker_died):
            raise
    finally:
        writer.emit(ending, durable=True)
        if trainer is not None:
            trainer.close()
    return ending


class HaltedError(EsperError):
    """Training ends because it could not be kept finite; the message says why."""


@dataclass(frozen=True)
class _Updated:
    """One update: the batch it learned from, its result and the drills that were due in it.

    `own_result` has what this process saw, of all processes that made the update.
    """

    batch: Batch
    result: UpdateResult
    own_result: UpdateResult
    drills: list[Injection]
    update_seconds: float


class Trainer:
    """One training process of a run.

    `run` is the whole of training and `_train_batch` one update of it, in the order in which they
    happen.
    """

    def __init__(
        self,
        config: TrainingConfig,
        run: Path,
        writer: EventWriter,
        progress: ProgressReport,
        stop: StopRequest,
        ranks: Ranks | None = None,
    ) -> None:
        self._ranks = ranks
        self._config = config
        self._run = run
        self._writer = writer
        self._progress = progress
        self._stop = stop
        self._log = RunLog(writer, progress)
        self._device = resolve_device(config.device)
        self._update = 0
        self._episodes_done = 0

        torch.manual_seed(config.rng_seed)
        self._task = load_data(config.task, self._device, self._log, stop)
        self._hosts = HostPool(config, self._task, self._device, self._log, stop, ranks)
        folder = run / CHECKPOINTS_NAME
        checkpoint, self._passed_over = load_for_all(folder, self._device, ranks)
        if checkpoint is not None:
            check_checkpoint(config, checkpoint, folder, self._log)
        saved_threads = checkpoint.threads if checkpoint else 0
        self._threads = self._hosts.set_threads(config.threads or saved_threads)
        self._agent = make_agent(
            config, self._hosts.hosts(config.num_envs).env, self._device, ranks or ALONE
        )
        self._drills = scheduled(config)
        if checkpoint is not None:
            self._restore(checkpoint)
        self._is_resumed = checkpoint is not None
        self._was_good = checkpoint is not None and checkpoint.update_was_good  # the last update
        compare_data(run, self._task, self._update, self._log)
        is_writer = ranks is None or ranks.rank == 0
        self.checkpoints = (CheckpointWriter if is_writer else NotedCheckpoints)(
            folder,
            self._log,
            update=self._update,
            good=last_good(folder, checkpoint) if checkpoint and is_writer else None,
            passed_over=self._passed_over,
        )
        escalation = Escalation(
            config.on_nonfinite,
            config.nonfinite_patience,
            bad_in_a_row=checkpoint.bad_in_a_row if checkpoint else 0,
            rollbacks_in_a_row=checkpoint.rollbacks_in_a_row if checkpoint else 0,
        )
        self._recovery = Recovery(self._agent, escalation, folder, self._log, ranks)
        self._incidents = IncidentLedger(
            run,
            limit=config.incidents_kept,
            limit_bytes=config.incident_megabytes * 2**20,
            number=checkpoint.incidents if checkpoint and is_writer else 0,
        )

    @property
    def done(self) -> tuple[int, int]:
        """The number of updates and episodes that are done."""
        return self._update, self._episodes_done

    def close(self) -> None:
        """End the processes that hold hosts."""
        self._hosts.close()

    # The whole of training

    def run(self) -> RunFinished:
        """Train to the end; return how training ended."""
        self._announce()
        self._progress.begin(self._episodes_done, self._task.validation.largest_class)
        while self._episodes_done < self._config.episodes:
            done = self.done
            try:
                if self._is_stop_requested():
                    if not self.checkpoints.has(self._update):
                        self._write_checkpoint()
                    return self._early_ending("stopped", "asked to stop; the run can be resumed")
                self._train_batch()
            except HaltedError as halted:
                return self._ending("halted", str(halted))
            except StoppedAtOnce:
                self._update, self._episodes_done = done
                self.checkpoints.write_held()
                why = self._stop.lost or "asked to stop"
                status = "failed" if self._stop.lost else "stopped"
                return self._early_ending(
                    status, f"{why}; the current batch is lost; the run can be resumed"
                )
        idle = [f"drill {drill} found no step with {drill.head} active" for drill in self._drills]
        return self._ending("finished", "; ".join(idle))

    def _train_batch(self) -> None:
        """Collect a batch of episodes, update, watch, write a checkpoint.

        Raises:
            HaltedError: the update was not finite, and training ends.
            StoppedAtOnce: the user asked to stop at once, before the update was done.
        """
        first_episode = self._episodes_done + 1
        batch = self._collect(first_episode)
        episodes = emit_episodes(
            self._writer,
            batch.last_info,
            batch.returns,
            update=self._update + 1,
            first_episode=first_episode,
        )
        updated = self._learn(batch)
        self._update += 1
        self._episodes_done = episodes.episodes_done
        self._report(updated, episodes)
        intervention = self._watch(updated)
        self._checkpoint_if_due(intervention)

    # One update, step by step

    def _collect(self, first_episode: int) -> Batch:
        """Run one episode in each environment; the last batch of a run may need fewer of them."""
        config, update = self._config, self._update + 1
        self._hosts.update = update
        num_envs = min(config.num_envs, config.episodes - self._episodes_done)
        sharing = HostSharing(num_envs, self._ranks)
        return collect(
            self._hosts.hosts(num_envs),
            self._agent,
            self._writer,
            seeds=episode_seeds(config.rng_seed, first_episode, num_envs, config.siblings),
            update=update,
            first_episode=first_episode,
            on_step=lambda step: self._stepped(step, num_envs),
            interruptible=self._stop.interruptible,
            sharing=sharing,
        )

    def _stepped(self, step: int, num_envs: int) -> None:
        """Show a step, and write a checkpoint of the last update if the user asked for one."""
        steps = self._config.steps
        episodes = self._episodes_done + num_envs * step / steps
        self._progress.stepped(self._update + 1, step, steps, episodes)
        if self._stop.checkpoint_wanted:
            self._stop.checkpoint_wanted = False
            self.checkpoints.write_on_request()

    def _is_stop_requested(self) -> bool:
        """Return whether to stop after this update; ranks stop together."""
        if self._ranks is None:
            return self._stop.requested
        self._stop.check()
        return self._ranks.is_any(self._stop.requested)

    def _learn(self, batch: Batch) -> _Updated:
        """Make one PPO update."""
        start = time.perf_counter()
        due = [drill for drill in self._drills if drill.update <= self._update + 1]
        self._agent.set_learning_rate(learning_rate_after(self._episodes_done, self._config))
        with self._stop.interruptible():
            use_one_state(self._agent, self._ranks, self._log)
            result = update_with_drills(self._agent, batch.rollout, due, batch.sightings)
        own = result
        if self._ranks is not None:
            own = result.of_one_process([*batch.own_sightings, *result.own])
        return _Updated(batch, result, own, due, time.perf_counter() - start)

    def _report(self, updated: _Updated, episodes: EpisodesCompleted) -> None:
        """Write the figures of an update to the store, and show them on the console."""
        batch = updated.batch
        payload = emit_ppo_update_event(
            self._writer,
            updated.own_result,
            update=self._update,
            episodes_done=self._episodes_done,
            rollout_seconds=batch.seconds,
            update_seconds=updated.update_seconds,
            samples_per_second=batch.training_samples / batch.seconds,
            hosts_seconds=batch.hosts_seconds,
        )
        self._progress.updated(payload, episodes)
        for drill in updated.drills:
            if drill in updated.result.not_planted:
                self._log.say(
                    f"drill {drill}: {drill.head} was active in no step of update "
                    f"{self._update}; it is planted in the next update",
                    "warning",
                )
            else:
                self._drills.remove(drill)
                self._log.say(f"drill {drill} planted in update {self._update}", "info")

    def _watch(self, updated: _Updated) -> Intervention:
        """Record an incident and respond, if the update was not finite.

        Raises:
            HaltedError: training ends.
        """
        result, own = updated.result, updated.own_result
        born = 0
        if self._ranks is not None and (seen := result.figures.head_nonfinite):
            here = own.figures.head_nonfinite
            born = report_faults_by_rank(self._update, seen, here, self._ranks, self._log)
        if result.start is not None and (self._ranks is None or self._ranks.rank == born):
            capsule = capsule_of(
                self._update,
                own,
                updated.batch.rollout,
                updated.drills,
                config=self._config,
                threads=self._threads,
                device=self._device,
            )
            record_incident(capsule, own, self._incidents, self._log)
        intervention = self._recovery.respond(self._update, result)
        self._was_good = intervention.is_good
        if intervention.action is Action.HALT:
            self._write_checkpoint()
            raise HaltedError(intervention.reason)
        return intervention

    def _checkpoint_if_due(self, intervention: Intervention) -> None:
        """Write a checkpoint if it is due; else hold the state in memory until the next update."""
        every = self._config.checkpoint_every
        is_due = self._update % every == 0 or self.checkpoints.has_failed
        is_last = self._episodes_done >= self._config.episodes
        if is_last or (is_due and intervention.action is not Action.ROLLBACK):
            self._write_checkpoint()
        # A batch that is interrupted leaves the agent in a state that no update ended with.
        is_written = self.checkpoints.has(self._update)
        self.checkpoints.hold(None if is_written else deepcopy(self._checkpoint()))

    # Checkpoints

    def _write_checkpoint(self) -> None:
        """Write a checkpoint, unless a parameter or a part of the optimizer is not sound.

        A refusal, or an error of the disk, is reported, and training continues.
        """
        if unsound := self._agent.state.unsound():
            self._log.say(
                f"no checkpoint of update {self._update}: {', '.join(unsound)} not finite or "
                "below 0; the one before is kept",
                "error",
            )
            return
        self.checkpoints.write(self._checkpoint())

    def _checkpoint(self) -> Checkpoint:
        """Return the current state; it shares its tensors with the agent."""
        escalation = self._recovery.escalation
        return Checkpoint(
            update=self._update,
            episodes_done=self._episodes_done,
            threads=self._threads,
            agent=self._agent.state_dict(),
            drills=[str(drill) for drill in self._drills],
            bad_in_a_row=escalation.bad_in_a_row,
            rollbacks_in_a_row=escalation.rollbacks_in_a_row,
            incidents=self._incidents.number,
            settings=settings_of(self._config),
            latches=self._writer.latches(),
            update_was_good=self._was_good,
        )

    # The start of a run

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint, with the drills that were still due in it."""
        self._agent.load_state_dict(checkpoint.agent)
        self._update = checkpoint.update
        self._hosts.update = checkpoint.update + 1
        self._episodes_done = checkpoint.episodes_done
        overdue = [parse_injection(text) for text in checkpoint.drills]
        self._drills = [
            *(drill for drill in overdue if drill.update <= checkpoint.update),
            *(drill for drill in self._drills if drill.update > checkpoint.update),
        ]

    def _announce(self) -> None:
        """Describe the task, and write the start event."""
        describe_task(self._task, self._log)
        hosts = self._hosts.hosts(self._config.num_envs)
        started = run_started(
            self._config,
            self._run.name,
            self._task,
            device=self._device,
            threads=self._threads,
            host_parameters=hosts.env.host_parameters,
            resumed_from_update=self._update if self._is_resumed else None,
            ranks=self._ranks,
        )
        self._writer.emit(started, durable=True)  # without it a run has no lights
        self._progress.say(start_line(started, hosts.processes))
        for sentence in change_sentences(self._run):
            self._log.say(sentence, "warning")
        for one in self._passed_over:
            self._log.say(f"{one.reason}; resuming from update {self._update}", "warning")

    # The end of a run

    def _early_ending(self, status: str, reason: str) -> RunFinished:
        self._progress.say(f"{status}: {reason}")
        return self._ending(status, reason)

    def _ending(self, status: str, reason: str) -> RunFinished:
        if not self.checkpoints.has(self._update) and self.checkpoints.has_failed:
            missing = f"the checkpoint of update {self._update} could not be written"
            reason = f"{reason}; {missing}" if reason else missing
        return RunFinished(
            status=status, update=self._update, episodes_done=self._episodes_done, reason=reason
        )
