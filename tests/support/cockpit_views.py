"""Views of runs that were never trained, for widgets and the app."""

import math
from dataclasses import replace
from pathlib import Path

import msgspec

import esper
from esper.karn.sanctum.fold.doubt import Doubt
from esper.karn.sanctum.fold.verdict import master_verdict
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.schema import (
    DecisionState,
    Evidence,
    FirstSighting,
    HeadDecision,
    HostState,
    IncidentState,
    InterventionState,
    LogEntry,
    MachineState,
    RunState,
    SanctumSnapshot,
    SlotState,
    TamiyoState,
    TrainingState,
)
from esper.karn.store.liveness import RunStatus, StatusKind
from esper.leyline.head_figures import HeadFigures
from esper.leyline.heads import (
    ACTIVE_HEADS,
    BLUEPRINT_CHOICES,
    HEAD_CHOICES,
    HEAD_NAMES,
    SLOT_CHOICES,
    Op,
)
from esper.leyline.telemetry import IncidentOrigin, PPOUpdatePayload, UpdateFigures

START = 1_763_838_000.0


UPDATES = 36


def _zigzag(low, high, period, points=UPDATES):
    """Return a triangle wave; only sums and products, so that every machine has the same."""
    steps = [abs((2 * i) % (2 * period) - period) / period for i in range(points)]
    return tuple(low + (high - low) * step for step in steps)


class Views:
    """Makes views of which a test needs to name only what it is about."""

    def view(
        self, snapshot=None, *, kind=StatusKind.LIVE, seconds=1.0, sentence="training", **more
    ):
        """Return a view of a snapshot, with the verdict that belongs to it."""
        snapshot = self.healthy() if snapshot is None else snapshot
        doubt = Doubt(
            error=more.pop("error", None),
            is_unread=more.pop("is_unread", False),
            damaged_events=snapshot.run.damaged_events,
            acknowledgements=more.pop("acknowledgements_error", None),
        )
        more.setdefault("doubt", doubt)
        status = RunStatus(kind, seconds, sentence)
        verdict = master_verdict(snapshot, status)
        return View(
            **(
                {"status": status, "verdict": verdict, "now": START + 4000.5, "snapshot": snapshot}
                | more
            )
        )

    def waiting(self):
        """Return what there is to see before the first run."""
        return self.view(
            SanctumSnapshot(),
            kind=StatusKind.WAITING,
            seconds=None,
            sentence="waiting for the first run in /runs",
        )

    def healthy(self, hosts=8):
        """Return a run after 36 updates in which everything is as it should be."""
        return SanctumSnapshot(
            run=RunState(
                run_id="20251122-190000-amber",
                name="amber",
                task="mnist1d",
                device="cpu",
                seed=7,
                phase="training",
                episodes=400,
                episodes_done=8 * UPDATES,
                update=UPDATES,
                steps=24,
                step=11,
                environments=hosts,
                steps_per_second=118.4,
                samples_per_second=94_321.0,
                started_at=START,
                last_event_at=START + 4000,
                host_parameters=858,
                slots=SLOT_CHOICES,
                blueprints=BLUEPRINT_CHOICES,
            ),
            tamiyo=self._tamiyo(),
            training=self._training(),
            hosts=tuple(self._host(index) for index in range(hosts)),
            log=tuple(self._log()),
            last_event_id=1000,
        )

    def broken(self, hosts=8):
        """Return the same run after `op` went Inf in update 2, and again in the last one."""
        snapshot = self.healthy(hosts)
        tamiyo = snapshot.tamiyo
        ratios = (*tamiyo.history("head_ratio_max", "op")[:-1], math.inf)
        norms = (*tamiyo.history("head_gradient_norm", "op")[:-2], math.nan, 0.25)
        history = tamiyo.head_history
        figures = tamiyo.figures
        tamiyo = replace(
            tamiyo,
            head_inf_latch=tamiyo.head_inf_latch | {"op": True},
            head_nan_latch=tamiyo.head_nan_latch | {"op": True},
            head_inf_active=tamiyo.head_inf_active | {"op": True},
            figures=msgspec.structs.replace(
                figures, head_ratio_max=figures.head_ratio_max | {"op": math.inf}
            ),
            head_history=history
            | {
                "head_ratio_max": history["head_ratio_max"] | {"op": ratios},
                "head_gradient_norm": history["head_gradient_norm"] | {"op": norms},
            },
            first=(
                FirstSighting("op", "+inf", "logits", update=2, epoch=1, minibatch=1),
                FirstSighting("op", "nan", "log_prob", update=2, epoch=1, minibatch=1),
            ),
            evidence=(
                Evidence("op", "logits", "+inf", 2, 1, 1, 36, 4, 2, 2, 3, is_active=True),
                Evidence("op", "log_prob", "nan", 2, 1, 1, 2, 1, 1, 1, 1, is_active=False),
            ),
        )
        training = replace(
            snapshot.training,
            figures=msgspec.structs.replace(snapshot.training.figures, minibatches_skipped=1),
            skipped_in_run=2,
            gradient_norm_history=(*snapshot.training.gradient_norm_history[:-2], math.nan, 0.4),
        )
        latch = LogEntry(
            900,
            START + 3990,
            "latch",
            "op went Inf first in logits, update 2, epoch 1, minibatch 1",
        )
        return replace(
            snapshot,
            tamiyo=tamiyo,
            training=training,
            interventions=InterventionState(
                updates_skipped=1, updates_rolled_back=1, incidents=2, incidents_not_kept=1
            ),
            log=(*snapshot.log, latch),
            last_event_id=1001,
        )

    def drilled(self, hosts=8):
        """Return the broken run with all that the further screens show: incidents and decisions."""
        snapshot = self.broken(hosts)
        done = LogEntry(
            901,
            START + 120,
            "warning",
            "update 2 skipped bad minibatches: op Inf in logits (a policy of skip was asked for)",
            kind="intervention_taken",
        )
        return replace(
            snapshot,
            incidents=(
                IncidentState(2, 1, "incidents/0001/capsule.pt"),
                IncidentState(36, 2, "", "3 incidents are kept at most"),
            ),
            hosts=tuple(self._grown(host) for host in snapshot.hosts),
            decisions=tuple(self.decision(host) for host in range(hosts)),
            log=(done, *snapshot.log),
        )

    def watched(self, *, is_broken=True, heads=None, groups=0):
        """Return a run of another library that is watched, after an incident by default."""
        heads = {"steer": "categorical", "brake": "binary"} if heads is None else heads
        kinds = heads | {f"expert.{number}": "group" for number in range(groups)}
        names = dict.fromkeys(kinds, ())
        dark = dict.fromkeys(names, False)
        logged = {
            "rollout/ep_rew_mean": _zigzag(20.0, 180.0, 36),
            "train/value_loss": (*_zigzag(20.0, 90.0, 7)[:-1], math.nan if is_broken else 30.0),
            "train/loss": _zigzag(10.0, 70.0, 9),
            "train/approx_kl": _zigzag(0.001, 0.01, 5),
            "train/clip_range": (0.2,) * UPDATES,
            "time/total_timesteps": tuple(256.0 * (1 + update) for update in range(UPDATES)),
        }
        tamiyo = TamiyoState(
            head_inf_latch=dark,
            head_nan_latch=dark,
            head_inf_active=dark,
            head_nan_active=dark,
            group_inf_latch={"shared": False},
            group_nan_latch={"shared": False},
            group_inf_active={"shared": False},
            group_nan_active={"shared": False},
        )
        snapshot = SanctumSnapshot(
            run=RunState(
                run_id="20251122-190000-cart",
                name="cart",
                task="CartPole-v1",
                device="cpu",
                seed=7,
                phase="training",
                update=UPDATES,
                started_at=START,
                last_event_at=START + 4000,
                heads=names,
                head_kinds=kinds,
                library="stable-baselines3 2.9.2",
            ),
            machine=MachineState(cpu_percent=98.0, memory_bytes=750_000_000),
            tamiyo=tamiyo,
            training=TrainingState(
                figures=PPOUpdatePayload(
                    update=UPDATES,
                    episodes_done=0,
                    minibatches=40,
                    minibatches_skipped=0,
                    minibatches_stopped=0,
                    gradient_norm=0.75,
                    head_inf_detected={},
                    head_nan_detected={},
                    logged={name: values[-1] for name, values in logged.items()},
                ),
                gradient_norm_history=_zigzag(0.2, 0.8, 6),
                logged_history=logged,
            ),
            log=(
                LogEntry(1, START, "info", "run cart started: stable-baselines3 2.9.2 is watched"),
            ),
            last_event_id=100,
        )
        return self._with_incident(snapshot) if is_broken else snapshot

    def _with_incident(self, snapshot):
        tamiyo = snapshot.tamiyo
        first = FirstSighting("shared", "nan", "advantages", update=36, epoch=0, minibatch=1)
        logits = FirstSighting("steer", "nan", "logits", update=36, epoch=0, minibatch=2)
        return replace(
            snapshot,
            tamiyo=replace(
                tamiyo,
                group_nan_latch={"shared": True},
                group_nan_active={"shared": True},
                head_nan_latch=tamiyo.head_nan_latch | {"steer": True},
                first=(first, logits),
                evidence=(
                    Evidence("shared", "advantages", "nan", 36, 0, 1, 36, 0, 9, 1, 9, True),
                    Evidence("steer", "logits", "nan", 36, 0, 2, 36, 0, 2, 1, 1, False),
                ),
            ),
            interventions=InterventionState(incidents=1, incidents_not_kept=1),
            incidents=(
                IncidentState(
                    36,
                    1,
                    "",
                    "a watched run keeps no capsule",
                    IncidentOrigin(
                        operation="aten.div.Tensor",
                        phase="forward",
                        cause="poisoned input: variable rewards[6] is nan",
                        module="policy.critic",
                        file="/lib/python3.11/site-packages/cartlib/ppo.py",
                        line=219,
                        function="train",
                        code="advantages = (advantages - mean) / std",
                        loop="/home/ana/train.py:12: model.learn(10_000)",
                    ),
                ),
            ),
        )

    def decision(self, host, op=Op.GERMINATE):
        """Return a decision in which every head chose its second choice, in part surely."""
        heads = []
        for place, (head, choices) in enumerate(HEAD_CHOICES.items()):
            shares = [0.0] * len(choices)
            shares[0], shares[1] = 0.125, 0.5 + 0.03125 * place
            shares[-1] += 1.0 - shares[0] - shares[1]
            choice = int(op) if head == "op" else 1
            is_active = head in ACTIVE_HEADS[op]
            heads.append(HeadDecision(head, choice, shares[choice], is_active, tuple(shares)))
        return DecisionState(host, UPDATES + 1, 11, tuple(heads), value=0.5 - 0.0625 * host)

    def _grown(self, host):
        stages = (0, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5)
        alphas = (0.0, 0.0, 0.0, 0.0, 0.0, 0.25, 0.5, 0.75, 0.75, 0.75, 0.75)
        steps = [
            (
                SlotState(stage, alpha, host.host % 8 if stage else -1),
                SlotState((0, 0, 6, 7)[min(3, step // 2)], 0.0, 3 if step // 2 == 2 else -1),
                SlotState(5, 1.0, 5),
            )
            for step, (stage, alpha) in enumerate(zip(stages, alphas, strict=True))
        ]
        return replace(
            host,
            slots=steps[-1],
            slot_history=tuple(steps),
            loss_history=_zigzag(host.loss, host.loss + 1.0, 11, points=11),
            reward_history=_zigzag(-0.0625, 0.125, 4, points=11),
            parameters_history=(858 + 155 * host.host, *[858 + 311 * host.host] * 10),
            reward_terms={"potential": 0.0625, "rent": -0.015625, "score": 0.0},
            reward_terms_history={
                "potential": _zigzag(-0.03125, 0.0625, 4, points=11),
                "rent": _zigzag(-0.015625, 0.0, 11, points=11),
                "score": (0.0,) * 11,
            },
        )

    def _tamiyo(self):
        places = dict(zip(HEAD_NAMES, range(len(HEAD_NAMES)), strict=True))
        history = {
            "head_entropy": {
                head: _zigzag(0.5, 0.9 - 0.01 * place, 8 + place) for head, place in places.items()
            },
            "head_gradient_norm": {
                head: _zigzag(0.1, 0.4, 5 + place) for head, place in places.items()
            },
            "head_ratio_max": {
                head: _zigzag(1.05, 1.3, 6 + place) for head, place in places.items()
            },
            "head_clip_fraction": {
                head: _zigzag(0.02, 0.2, 7 + place) for head, place in places.items()
            },
        }
        latest = {
            name: {head: values[-1] for head, values in by_head.items()}
            for name, by_head in history.items()
        }
        figures = HeadFigures(
            **latest,
            head_kl={head: 0.001 * place for head, place in places.items()},
            head_log_prob_min={head: -1.5 * place for head, place in places.items()},
            head_log_prob_max={head: -0.01 * place for head, place in places.items()},
            head_active_fraction={head: 0.125 * place for head, place in places.items()},
        )
        return TamiyoState(figures=figures, head_history=history)

    def _training(self):
        return TrainingState(
            figures=UpdateFigures(
                minibatches=16,
                minibatches_skipped=0,
                minibatches_stopped=0,
                policy_loss=-0.0123,
                value_loss=0.452,
                entropy=3.1,
                approximate_kl=0.0087,
                clip_fraction=0.11,
                explained_variance=0.61,
                gradient_norm=0.42,
                learning_rate=2e-3,
                head_inf_detected={},
                head_nan_detected={},
            ),
            policy_loss_history=_zigzag(-0.05, 0.02, 5),
            value_loss_history=_zigzag(0.2, 0.9, 36),
            entropy_history=_zigzag(3.1, 5.0, 36),
            approximate_kl_history=_zigzag(0.002, 0.02, 7),
            clip_fraction_history=_zigzag(0.05, 0.2, 9),
            explained_variance_history=_zigzag(-0.4, 0.6, 20),
            gradient_norm_history=_zigzag(0.2, 0.8, 6),
            score=0.584,
            score_history=_zigzag(0.45, 0.6, 36),
        )

    def _host(self, index):
        blueprint = index % len(BLUEPRINT_CHOICES)
        return HostState(
            host=index,
            episode=index + 1,
            accuracy=0.5 + 0.03125 * (index % 8),
            loss=1.25 - 0.0625 * (index % 8),
            parameters=858 + 311 * index,
            reward=0.03125 * (index % 8) - 0.0625,
            slots=(
                SlotState(
                    stage=index % 6, alpha=0.0 if index % 6 < 3 else 0.5, blueprint=blueprint
                ),
                SlotState(stage=0, alpha=0.0, blueprint=-1),
                SlotState(stage=5, alpha=1.0, blueprint=5),
            ),
            accuracy_history=_zigzag(0.3, 0.5 + 0.03125 * (index % 8), 11, points=11),
        )

    def _log(self):
        yield LogEntry(1, START, "info", "run amber started: 400 episodes of mnist1d on 8 hosts")
        for number in range(24):
            slot = SLOT_CHOICES[number % 3]
            blueprint = BLUEPRINT_CHOICES[number % 8]
            text = f"host {number % 8 + 1}: {blueprint} germinated in slot {slot}"
            yield LogEntry(10 + number, START + 60 * number, "info", text)


OPERATION = {
    "op": "aten.mm.default",
    "phase": "forward",
    "epoch": 1,
    "minibatch": 3,
    "module": "policy.heads",
    "derivative": "",
    "file": str(Path(esper.__file__).parent / "tamiyo/policy.py"),
    "line": 88,
    "function": "forward",
    "code": "return hidden @ self.weight",
}
