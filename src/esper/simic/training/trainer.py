"""Training: batches of whole episodes, one PPO update after each, every fact told on the way."""

import platform
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from esper.growth.environment.divided import DividedHosts
from esper.growth.environment.host_process import LONGEST_SILENCE, HostProcessError
from esper.growth.tasks.loading import load_task
from esper.growth.tasks.summary import summary_lines
from esper.leyline.checkpoint_file import (
    CHECKPOINTS_NAME,
    CheckpointError,
    checkpoint_path,
    newest_whole,
    unsealed_sentence,
)
from esper.leyline.errors import EsperError
from esper.leyline.heads import BLUEPRINT_CHOICES, HEAD_CHOICES, HEAD_SIZES, SLOT_CHOICES
from esper.leyline.sighting_words import what_words
from esper.leyline.telemetry import (
    CheckpointWritten,
    HostsStalled,
    InterventionTaken,
    NonfiniteSighting,
    Notice,
    RunFinished,
    RunStarted,
)
from esper.leyline.version import VERSION
from esper.simic.agent.figures import UpdateResult
from esper.simic.agent.ppo import PPOAgent
from esper.simic.agent.rollout import Rollout
from esper.simic.config import TrainingConfig, check_same_settings, setting_names
from esper.simic.drill import Injection, parse_injection, scheduled
from esper.simic.environment import divide_hosts, resolve_device
from esper.simic.replay.incidents import Capsule, IncidentLedger, sighting_fields
from esper.simic.telemetry.emitters import EventWriter, emit_episodes, emit_ppo_update_event
from esper.simic.training.checkpoint import (
    Checkpoint,
    last_good,
    load_latest,
    save_checkpoint,
    unsound_parts,
)
from esper.simic.training.collecting import collect, episode_seeds
from esper.simic.training.intervention import Action, Escalation
from esper.simic.training.progress import ProgressReport
from esper.simic.training.run_data import (
    change_sentences,
    check_same_data,
    read_records,
    record_data,
)
from esper.simic.training.stopping import StoppedAtOnce, StopRequest
from esper.simic.training.threads import choose_threads
from esper.tamiyo.policy import RecurrentPolicy

#: Of the first learning rate, what is left of it when it has fallen as far as it will.
LEAST_LEARNING_RATE = 0.01


def settings_of(config: TrainingConfig) -> dict[str, Any]:
    """Return all settings by name."""
    return {name: getattr(config, name) for name in setting_names()}


def train(
    config: TrainingConfig,
    run: Path,
    writer: EventWriter,
    progress: ProgressReport,
    stop: StopRequest,
) -> RunFinished:
    """Train until all episodes are done or a stop is requested; resume from the newest checkpoint.

    Args:
        config: the run's settings.
        run: the run's directory, whose checkpoints are resumed from and written.
        writer: receives every telemetry event.
        progress: console progress reporter.
        stop: set when the user asked training to stop.

    Returns:
        How it ended, as it was told to the writer.

    Raises:
        ConfigError, CheckpointError: before anything is trained.
    """
    trainer: Trainer | None = None
    try:
        trainer = Trainer(config, run, writer, progress, stop)
        ending = trainer.run()
    except BaseException as error:
        # Whatever ends the process, the run says so; only a fault of the program goes on up.
        update, episodes_done = trainer.done if trainer else done_on_disk(run)
        interrupted = isinstance(error, KeyboardInterrupt)
        worker_died = isinstance(error, HostProcessError)
        reason = f"{type(error).__name__}: {error}"
        if interrupted and trainer is not None:
            trainer.keep_last()
        if isinstance(error, StoppedAtOnce):
            reason = "asked to stop before training began; it can be resumed"
        elif interrupted or worker_died:
            reason = f"{'interrupted' if interrupted else error}; the batch under way is lost"
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


def done_on_disk(run: Path) -> tuple[int, int]:
    """Return how many updates and episodes the newest whole checkpoint of a run has."""
    summary = newest_whole(run / CHECKPOINTS_NAME).summary
    return (summary.update, summary.episodes_done) if summary else (0, 0)


def learning_rate_after(episodes: int, config: TrainingConfig) -> float:
    """Return the learning rate of the update that comes after so many episodes.

    It does not depend on how many episodes the run is to have: a run that is given more of them
    goes on as it would have gone.
    """
    left = 1 - episodes / config.anneal_episodes
    return config.learning_rate * max(left, LEAST_LEARNING_RATE)


def _described(sightings: Sequence[NonfiniteSighting]) -> str:
    """Return the first sighting in words, and how many more there are."""
    words = what_words(sightings[0])
    return f"{words} and {len(sightings) - 1} more" if len(sightings) > 1 else words


class HaltedError(EsperError):
    """Training ends because it could not be kept finite; the message says why."""


class Trainer:
    """One training process of a run."""

    def __init__(
        self,
        config: TrainingConfig,
        run: Path,
        writer: EventWriter,
        progress: ProgressReport,
        stop: StopRequest,
    ) -> None:
        self._config = config
        self._run = run
        self._writer = writer
        self._progress = progress
        self._stop = stop
        self._device = resolve_device(config.device)
        self._drills = scheduled(config)
        self._hosts: DividedHosts | None = None
        self._silent: set[int] = set()  # processes that do not answer
        self._update = 0
        self._episodes_done = 0

        torch.manual_seed(config.seed)
        self._tell(f"preparing {config.task} on {self._device}")
        progress.stage(f"preparing {config.task}")
        with stop.interruptible():
            self._task = load_task(config.task)
        self._folder = run / CHECKPOINTS_NAME
        checkpoint, self._passed_over = load_latest(self._folder, self._device)
        if checkpoint is not None:
            source = f"the checkpoint of update {checkpoint.update}"
            check_same_settings(config, checkpoint.settings, source)
            if not checkpoint.is_sealed:
                path = checkpoint_path(self._folder, checkpoint.update)
                self._tell(unsealed_sentence(path), "warning")
        self._threads = self._choose_threads(checkpoint)
        shape = self._divided(config.num_envs).env.single_observation_space.shape
        assert shape is not None
        policy = RecurrentPolicy(
            shape[0], feature_size=config.feature_size, lstm_size=config.lstm_size
        )
        self._agent = PPOAgent(policy.to(self._device), config, seed=config.seed)
        if checkpoint is not None:
            self._agent.load_state_dict(checkpoint.agent)
            self._update = checkpoint.update
            self._episodes_done = checkpoint.episodes_done
            late = [parse_injection(text) for text in checkpoint.drills]
            self._drills = [
                *(drill for drill in late if drill.update <= checkpoint.update),
                *(drill for drill in self._drills if drill.update > checkpoint.update),
            ]
        self._resumed = checkpoint is not None
        self._kept_update = self._update
        self._unkept: Checkpoint | None = None  # the state after the last update, if not on disk
        self._unusable = [one.path for one in self._passed_over]  # removed with the next one
        self._checkpoints_failed = 0  # in a row
        self._was_good = checkpoint is not None and checkpoint.update_was_good  # the last update
        self._good_checkpoint = last_good(self._folder, checkpoint) if checkpoint else None
        if fingerprint := self._task.fingerprint:
            check_same_data(run, config.task, fingerprint)
            if not read_records(run):
                try:
                    record_data(run, fingerprint, self._update)
                except OSError as error:
                    self._say(f"the data of the run was not recorded: {error}", "warning")
        self._escalation = Escalation(
            config.on_nonfinite,
            config.nonfinite_patience,
            bad_in_a_row=checkpoint.bad_in_a_row if checkpoint else 0,
            rollbacks_in_a_row=checkpoint.rollbacks_in_a_row if checkpoint else 0,
        )
        self._incidents = IncidentLedger(
            run,
            limit=config.incidents_kept,
            limit_bytes=config.incident_megabytes * 2**20,
            number=checkpoint.incidents if checkpoint else 0,
        )

    def run(self) -> RunFinished:
        """Train to the end; return how it ended."""
        for line in summary_lines(self._task):
            self._progress.say(line)
            if self._task.fingerprint:  # what built-in tasks are is known
                self._tell(line, "warning" if line.startswith("note:") else "info")
        self._announce()
        self._progress.begin(self._episodes_done, self._task.validation.largest_class)
        for sentence in change_sentences(self._run):
            self._say(sentence, "warning")
        for one in self._passed_over:
            self._say(f"{one.reason}; resuming from update {self._update}", "warning")
        while self._episodes_done < self._config.episodes:
            if self._stop.requested:
                if self._kept_update != self._update:
                    self._keep()
                return self._stopped("asked to stop; it can be resumed")
            try:
                self._train_batch()
            except HaltedError as halted:
                return self._ending("halted", str(halted))
            except StoppedAtOnce:
                self.keep_last()
                reason = "asked to stop; the batch under way was given up; it can be resumed"
                return self._stopped(reason)
        idle = [f"drill {drill} found no step with {drill.head} active" for drill in self._drills]
        return self._ending("finished", "; ".join(idle))

    def _stopped(self, reason: str) -> RunFinished:
        self._progress.say(f"stopped: {reason}")
        return self._ending("stopped", reason)

    @property
    def done(self) -> tuple[int, int]:
        """Return how many updates and episodes are done."""
        return self._update, self._episodes_done

    def _ending(self, status: str, reason: str) -> RunFinished:
        if self._kept_update != self._update and self._checkpoints_failed:
            missing = f"the checkpoint of update {self._update} could not be written"
            reason = f"{reason}; {missing}" if reason else missing
        return RunFinished(
            status=status, update=self._update, episodes_done=self._episodes_done, reason=reason
        )

    def _train_batch(self) -> None:
        """Live one batch of episodes, learn from it, tell it, keep it."""
        config = self._config
        update = self._update + 1
        first_episode = self._episodes_done + 1
        hosts = min(config.num_envs, config.episodes - self._episodes_done)
        batch = collect(
            self._divided(hosts),
            self._agent,
            self._writer,
            seeds=episode_seeds(config.seed, first_episode, hosts, config.siblings),
            update=update,
            first_episode=first_episode,
            on_step=lambda step: self._progress.stepped(
                update, step, config.steps, self._episodes_done + hosts * step / config.steps
            ),
            interruptible=self._stop.interruptible,
        )
        episodes = emit_episodes(
            self._writer,
            batch.last_info,
            batch.returns,
            update=update,
            first_episode=first_episode,
        )
        start = time.perf_counter()
        due = [drill for drill in self._drills if drill.update <= update]
        self._agent.set_learning_rate(learning_rate_after(self._episodes_done, config))
        with self._stop.interruptible():
            result = self._agent.update(batch.rollout, due, before=batch.sightings)
        self._update = update
        self._episodes_done = episodes.episodes_done
        payload = emit_ppo_update_event(
            self._writer,
            result,
            update=update,
            episodes_done=episodes.episodes_done,
            rollout_seconds=batch.seconds,
            update_seconds=time.perf_counter() - start,
            samples_per_second=batch.training_samples / batch.seconds,
            hosts_seconds=batch.hosts_seconds,
        )
        self._progress.updated(payload, episodes)
        self._account_for(due, result.not_planted)
        if result.start is not None:
            self._record_incident(result, batch.rollout, due)
        action = self._intervene(result) if result.head_nonfinite else None
        if action is None:
            self._escalation = self._escalation.after_good()
        self._was_good = action in (None, Action.REPEAT)
        is_due = update % config.checkpoint_every == 0 or self._checkpoints_failed > 0
        is_last = self._episodes_done >= config.episodes
        if is_last or (is_due and action is not Action.ROLLBACK):
            self._keep()
        # A batch that is given up leaves the agent as no update left it.
        is_kept = self._kept_update == update
        self._unkept = None if is_kept else deepcopy(self._checkpoint())

    def _record_incident(
        self, result: UpdateResult, rollout: Rollout, due: list[Injection]
    ) -> None:
        """Keep what makes the update happen again, durably."""
        assert result.start is not None
        capsule = Capsule(
            update=self._update,
            config=settings_of(self._config),
            agent=result.start.agent,
            rollout=dict(rollout.__dict__),
            minibatches=result.start.minibatches,
            minibatches_per_epoch=result.start.minibatches_per_epoch,
            old_log_probs=result.start.old_log_probs,
            injections=[str(drill) for drill in due],
            sightings=sighting_fields(result.head_nonfinite),
            versions={
                "esper": VERSION,
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
            threads=self._threads,
            device=str(self._device),
            torch_generator=torch.get_rng_state(),
        )
        recorded = self._incidents.record(capsule, result.head_nonfinite)
        self._writer.emit(recorded, durable=True)
        if recorded.path:
            self._progress.say(f"incident {recorded.number} kept in {recorded.path}")
        else:
            self._progress.say(f"incident {recorded.number} not kept: {recorded.reason}")

    def _intervene(self, result: UpdateResult) -> Action | None:
        """Do about a bad update what the mode and its escalation say; return what was done.

        Returns:
            None if the update itself was good, and something was seen only while its episodes were
            collected.

        Raises:
            HaltedError: training is to end.
        """
        cause = _described(result.head_nonfinite)
        broken = self._agent.unsound_state()
        if result.start is None and self._escalation.mode != "halt" and not broken:
            self._say(
                f"update {self._update} was finite; while collecting for it: {cause}", "warning"
            )
            return None
        if (result.start is None or not result.reproduced) and not broken:
            self._escalation, action, reason = self._escalation.after_repeated()
        else:
            after = self._escalation.after_bad(state_is_finite=not broken)
            self._escalation, action, reason = after
        is_halted = action is Action.HALT
        if action in (Action.ROLLBACK, Action.HALT) and not self._roll_back():
            action, is_halted = Action.HALT, True
            reason += "; there is no sound state to go back to"
        self._writer.emit(
            InterventionTaken(update=self._update, action=action.value, cause=cause, reason=reason),
            durable=True,
        )
        if is_halted:
            self._was_good = False
            self._keep()
            raise HaltedError(f"update {self._update} was not finite: {cause}; {reason}")
        if action is Action.REPEAT:
            self._say(f"update {self._update} was repeated and stands: {cause}, once", "warning")
        if action is Action.ROLLBACK:
            self._progress.say(f"update {self._update} rolled back: {cause} ({reason})")
        return action

    def _roll_back(self) -> bool:
        """Return the agent to its last sound state, the last checkpoint's if need be.

        Returns:
            Whether there was one.
        """
        if self._agent.roll_back() and not self._agent.unsound_state():
            return True
        try:
            checkpoint, _ = load_latest(self._folder, self._device)
        except CheckpointError:
            return False
        if checkpoint is None:
            return False
        self._agent.go_back_to(checkpoint.agent)
        self._say(
            f"update {self._update}: went back to the checkpoint of update {checkpoint.update}",
            "warning",
        )
        return True

    def _account_for(self, due: list[Injection], not_planted: tuple[Injection, ...]) -> None:
        for drill in due:
            if drill in not_planted:
                self._say(
                    f"drill {drill}: {drill.head} was active in no step of update "
                    f"{self._update}; it waits for the next",
                    "warning",
                )
            else:
                self._drills.remove(drill)
                self._say(f"drill {drill} planted in update {self._update}", "info")

    def _keep(self) -> None:
        """Write a checkpoint, unless a weight or a part of the optimizer in it is not sound.

        A refusal, or a disk that takes none, is reported, and training goes on. The last checkpoint
        of a good update is not removed before there is another one.
        """
        if broken := self._agent.unsound_state():
            self._say(
                f"no checkpoint of update {self._update}: {', '.join(broken)} not finite or "
                "below 0; the one before is kept",
                "error",
            )
            return
        self._write(self._checkpoint())

    def keep_last(self) -> None:
        """Write the state after the last update, unless it is on the disk or not sound."""
        checkpoint = self._unkept
        if checkpoint is not None and not unsound_parts(checkpoint.agent):
            self._write(checkpoint)

    def _checkpoint(self) -> Checkpoint:
        """Return the state of now; its tensors are those that training goes on to change."""
        return Checkpoint(
            update=self._update,
            episodes_done=self._episodes_done,
            threads=self._threads,
            agent=self._agent.state_dict(),
            drills=[str(drill) for drill in self._drills],
            bad_in_a_row=self._escalation.bad_in_a_row,
            rollbacks_in_a_row=self._escalation.rollbacks_in_a_row,
            incidents=self._incidents.number,
            settings=settings_of(self._config),
            latches=self._writer.latches(),
            update_was_good=self._was_good,
        )

    def _write(self, checkpoint: Checkpoint) -> None:
        try:
            path = save_checkpoint(checkpoint, self._folder, self._good_checkpoint, self._unusable)
            size = path.stat().st_size
        except OSError as error:
            self._checkpoints_failed += 1
            self._say(f"no checkpoint of update {checkpoint.update}: {error}", "error")
            return
        if failed := self._checkpoints_failed:
            missing = "1 was" if failed == 1 else f"{failed} were"
            self._say(f"checkpoints are written again; {missing} not", "warning")
        self._checkpoints_failed = 0
        self._unusable = []
        self._kept_update = checkpoint.update
        if checkpoint.update_was_good:
            self._good_checkpoint = path
        relative = str(path.relative_to(self._run))
        self._writer.emit(CheckpointWritten(update=checkpoint.update, path=relative, size=size))

    def close(self) -> None:
        """End the processes that hold hosts."""
        if self._hosts is not None:
            self._hosts.close()

    def _divided(self, hosts: int) -> DividedHosts:
        """Return that many hosts; the last batch may need fewer."""
        if self._hosts is None or self._hosts.num_envs != hosts:
            self.close()
            with self._stop.interruptible():
                self._hosts = divide_hosts(
                    self._config, hosts, self._device, self._task, self._note_silence
                )
        return self._hosts

    def _note_silence(self, pid: int, seconds: float, *, answered: bool) -> None:
        """Report a process that holds hosts and does not answer, or answers again.

        Raises:
            StoppedAtOnce: a stop was requested; the process may never answer.
        """
        if answered:
            text = f"process {pid}, which holds hosts, answers again after {seconds:.0f} s"
            self._progress.say(text)
        elif self._stop.requested:
            raise StoppedAtOnce
        elif pid in self._silent:
            return
        else:
            self._progress.say(
                f"STALLED: process {pid}, which holds hosts, has not answered for {seconds:.0f} s; "
                f"training ends if it stays silent for {LONGEST_SILENCE:.0f} s"
            )
        (self._silent.discard if answered else self._silent.add)(pid)
        update = self._update + 1
        self._writer.emit(
            HostsStalled(update=update, pid=pid, seconds=seconds, answered=answered), durable=True
        )

    def _choose_threads(self, checkpoint: Checkpoint | None) -> int:
        """Set torch's threads: as configured, as the resumed run had them, or as measured."""
        threads = self._config.threads or (checkpoint.threads if checkpoint else 0)
        if threads:
            torch.set_num_threads(threads)
            return threads
        self._tell("measuring with how many threads training is fastest")
        self._progress.stage("measuring with how many threads training is fastest")
        hosts = self._divided(self._config.num_envs)
        waiting = np.zeros((hosts.num_envs, len(HEAD_SIZES)), dtype=np.int64)

        def train_a_slice() -> None:
            hosts.reset(range(hosts.num_envs))
            hosts.step(waiting)

        with self._stop.interruptible():
            return choose_threads(train_a_slice, hosts.set_threads)

    def _announce(self) -> None:
        """Tell what run this is, durably: a run without its start says nothing."""
        config = self._config
        process = psutil.Process()
        hosts = self._divided(config.num_envs)
        self._writer.emit(
            RunStarted(
                run_id=self._run.name,
                name=self._run.name,
                task=config.task,
                seed=config.seed,
                device=str(self._device),
                threads=self._threads,
                episodes=config.episodes,
                steps=config.steps,
                environments=config.num_envs,
                heads={head: list(choices) for head, choices in HEAD_CHOICES.items()},
                slots=list(SLOT_CHOICES),
                blueprints=list(BLUEPRINT_CHOICES),
                host_parameters=hosts.env.host_parameters,
                largest_class=self._task.validation.largest_class,
                config=settings_of(config),
                pid=process.pid,
                process_start_time=process.create_time(),
                esper_version=VERSION,
                torch_version=str(torch.__version__),
                resumed_from_update=self._update if self._resumed else None,
            ),
            durable=True,
        )
        going_on = f", going on after update {self._update}" if self._resumed else ""
        self._progress.say(
            f"run {self._run.name}: {config.task}, {config.episodes} episodes, "
            f"{config.num_envs} at a time in lockstep on {self._device}, "
            f"processes {hosts.processes}, threads {self._threads}{going_on}"
        )

    def _say(self, sentence: str, level: str) -> None:
        """Put a sentence before people, now and in the run's log."""
        self._progress.say(sentence)
        self._tell(sentence, level)

    def _tell(self, sentence: str, level: str = "info") -> None:
        """Put a sentence into the run's log."""
        self._writer.emit(Notice(level=level, text=sentence))
