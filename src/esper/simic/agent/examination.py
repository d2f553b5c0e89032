"""What was not finite in an update, from two passes over it: causes, places, whether they repeat.

Both passes compute the same from the same start. What the second pass shows is reported with its
causes. What only the first pass shows did not repeat: of each tensor the elements that differ are
looked at by themselves, so that a fault that happened once is found beside whatever else is
infinite, and is told apart from it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from esper.leyline.quantities import causal_rank
from esper.leyline.sighting_words import STEP_COUNTER
from esper.leyline.telemetry import HOSTS, PHASES, SHARED, STEP_PHASES, NonfiniteSighting
from esper.simic.agent.causal_filter import (
    CRITIC,
    TRUNK,
    Anatomy,
    Finding,
    Surroundings,
    causes_in,
    mask_biases,
    moment_findings,
    parameter_findings,
    until_then,
)
from esper.simic.agent.figures import AT_ONCE, Figures, Trace
from esper.simic.agent.losses import Minibatch
from esper.simic.agent.nonfinite_codes import (
    BACKWARD,
    KINDS,
    Codes,
    StateCodes,
    backward_codes,
    code_of,
    excess,
    forward_codes,
    output_codes,
)
from esper.simic.agent.rollout import Rollout
from esper.simic.agent.watching import UpdateWatch
from esper.tamiyo.policy import HeadTable, PolicyOutput

#: Of what quantity a figure tells that broke alone, and under which part it is reported.
_FIGURE_OF = {
    "gradient_norm": ("gradient", "norm"),
    "approximate_kl": ("joint_ratio", "divergence"),
}


@dataclass(frozen=True)
class PassCodes:
    """What a pass over an update left behind, as codes on the CPU.

    Attributes:
        prepared: of what each part of the preparation computed.
        minibatches: of the minibatches that were looked at, by number: forward and backward.
        loss_scales: that each minibatch's loss was multiplied by, `[M]`.
        end: of parameters, moments and loss scale after the last step.
        figures: of the pass.
    """

    prepared: list[Codes]
    minibatches: dict[int, Codes]
    loss_scales: Tensor
    end: StateCodes
    figures: Figures

    def is_bad(self, known: Tensor) -> bool:
        """Return whether anything has a code, but for parameters with `known` codes `[P]`."""
        looked_at = [*self.prepared, *self.minibatches.values()]
        return (
            self.end.without(known).is_bad
            or any(bool(codes.any()) for each in looked_at for codes in each.values())
            or any(
                bool(self.figures.scalars[name].isfinite().logical_not().any()) for name in AT_ONCE
            )
        )


@dataclass(frozen=True)
class Plan:
    """Which hosts each part of an update takes, and what acting left for it to explain.

    Attributes:
        rollout: the episodes.
        minibatches: the numbers of the hosts in each.
        per_epoch: how those divide into epochs; the first epoch's are those of the preparation.
        before: what was seen while acting and in hosts.
    """

    rollout: Rollout
    minibatches: Sequence[Tensor]
    per_epoch: int
    before: Sequence[NonfiniteSighting]


@torch.no_grad()
def look_at_first(
    traces: Sequence[Trace], prepared: Sequence[Codes], end: StateCodes, figures: Figures,
    table: HeadTable,
) -> PassCodes:  # fmt: skip
    """Return the codes of a pass of which only figures are known; of minibatches, those that
    tripped."""
    tripped = figures.tripped.nonzero().flatten().tolist()
    minibatches = {}
    for index in tripped:
        trace = traces[index]
        codes = forward_codes(trace.batch, trace.terms, trace.loss_scale, table)
        minibatches[index] = codes | backward_codes(trace.gradient, trace.derivatives)
    return _on_host(minibatches, prepared, traces, end, figures)


def look_at_second(
    traces: Sequence[Trace], prepared: Sequence[Codes], watch: UpdateWatch, figures: Figures
) -> PassCodes:
    """Return the codes of a pass in which everything was watched."""
    codes = zip(watch.forward_codes, watch.backward_codes, strict=True)
    minibatches = {index: forward | backward for index, (forward, backward) in enumerate(codes)}
    return _on_host(minibatches, prepared, traces, watch.state(), figures)


def _on_host(
    minibatches: Mapping[int, Codes],
    prepared: Sequence[Codes],
    traces: Sequence[Trace],
    end: StateCodes,
    figures: Figures,
) -> PassCodes:
    moved = to_host([*minibatches.values(), *prepared, end.__dict__])
    return PassCodes(
        prepared=moved[len(minibatches) : -1],
        minibatches=dict(zip(minibatches, moved, strict=False)),
        loss_scales=torch.stack([trace.loss_scale for trace in traces]).cpu(),
        end=StateCodes(**moved[-1]),
        figures=figures,
    )


def to_host(groups: Sequence[Mapping[str, Tensor]]) -> list[Codes]:
    """Return codes on the CPU, all of them brought there in one transfer."""
    flat = [values.reshape(-1) for group in groups for values in group.values()]
    pieces = iter(torch.cat(flat).cpu().split([len(part) for part in flat]) if flat else ())
    return [
        {name: next(pieces).view(values.shape) for name, values in group.items()}
        for group in groups
    ]


@dataclass
class _Ledger:
    """Sightings by what they are of, joined over the places in which they were seen."""

    per_epoch: int
    _seen: dict[tuple[str, str, str, str], NonfiniteSighting] = field(default_factory=dict)

    def add(
        self, finding: Finding, phase: str, index: int | None = None, *, reproduced: bool
    ) -> None:
        """Add a finding; `index` is the number of its minibatch."""
        epoch, minibatch = 0, 0
        if index is not None:
            epoch, minibatch = index // self.per_epoch + 1, index % self.per_epoch + 1
        new = NonfiniteSighting(
            head=finding.head,
            quantity=finding.quantity,
            kind=finding.kind,
            count=1,
            epoch=epoch,
            minibatch=minibatch,
            last_epoch=epoch,
            last_minibatch=minibatch,
            phase=phase,
            host=finding.host,
            step=finding.step,
            part=finding.part,
            reproduced=reproduced,
        )
        key = (finding.head, finding.quantity, finding.kind, phase)
        known = self._seen.get(key)
        self._seen[key] = new if known is None else _joined(known, new)

    def sightings(self) -> list[NonfiniteSighting]:
        return list(self._seen.values())


def _joined(one: NonfiniteSighting, other: NonfiniteSighting) -> NonfiniteSighting:
    """Return what two sightings of the same kind say together."""
    first, last = sorted((one, other), key=lambda s: (s.epoch, s.minibatch))
    is_same_place = (one.epoch, one.minibatch) == (other.epoch, other.minibatch)
    return NonfiniteSighting(
        head=one.head,
        quantity=one.quantity,
        kind=one.kind,
        count=one.count + (not is_same_place and one.phase == "update"),
        epoch=first.epoch,
        minibatch=first.minibatch,
        last_epoch=max((one.last_epoch, one.last_minibatch), (last.epoch, last.minibatch))[0],
        last_minibatch=max((one.last_epoch, one.last_minibatch), (last.epoch, last.minibatch))[1],
        phase=one.phase,
        host=first.host,
        step=first.step,
        part=first.part,
        reproduced=one.reproduced or other.reproduced,
    )


def examine(
    plan: Plan,
    anatomy: Anatomy,
    first: PassCodes,
    second: PassCodes,
    watch: UpdateWatch,
    known: Tensor,
) -> tuple[list[NonfiniteSighting], Tensor]:
    """Return what two passes over an update saw, causes only, and the parameters it can do with.

    Args:
        plan: of the update.
        anatomy: of the policy.
        first: the pass that was only checked.
        second: the pass that was watched.
        watch: of the second pass.
        known: codes of parameters that were reported in an earlier update and do no harm, `[P]`.

    Returns:
        Sightings in causal order, without those of `plan.before`; and the codes of the parameters
        that were broken when the update began and did no harm, `[P]`.
    """
    examination = _Examination(plan, anatomy, first, second, watch)
    harmless = examination.lasting(known)
    examination.once()
    examination.figures_alone()
    return in_order(examination.ledger.sightings(), anatomy.heads), harmless


def seen_in_one_pass(
    plan: Plan, anatomy: Anatomy, codes: PassCodes, watch: UpdateWatch
) -> tuple[NonfiniteSighting, ...]:
    """Return what a single pass that was watched saw, in causal order."""
    examination = _Examination(plan, anatomy, codes, codes, watch)
    examination.lasting(torch.zeros_like(codes.end.parameters))
    return tuple(in_order(examination.ledger.sightings(), anatomy.heads))


def seen_in_state(
    state: StateCodes, anatomy: Anatomy, known: Tensor
) -> tuple[list[NonfiniteSighting], Tensor, bool]:
    """Return what is broken in a state from which no update was made.

    Args:
        state: its codes.
        anatomy: of the policy.
        known: codes of parameters that were reported before, `[P]`.

    Returns:
        Sightings; the codes of all parameters, `[P]`, which are known from now on; and whether
        anything is broken that is not legal.
    """
    ledger = _Ledger(per_epoch=1)
    state = to_state([state])[0]
    is_mask = mask_biases(state.parameters, anatomy)
    illegal = replace(state, parameters=state.parameters.masked_fill(is_mask, 0))
    for finding in _state_findings(illegal.without(known), anatomy):
        ledger.add(finding, "given", reproduced=True)
    return ledger.sightings(), state.parameters, illegal.is_bad


def _state_findings(state: StateCodes, anatomy: Anatomy) -> Iterator[Finding]:
    """Yield findings for all that is broken in a state."""
    yield from parameter_findings(state.parameters, anatomy, "parameters")
    yield from moment_findings(state, anatomy)
    if state.loss_scale:
        yield Finding(SHARED, "loss_scale", KINDS[int(state.loss_scale)])


def to_state(states: Sequence[StateCodes]) -> list[StateCodes]:
    """Return states on the CPU, all of them brought there in one transfer."""
    return [StateCodes(**codes) for codes in to_host([state.__dict__ for state in states])]


def in_order(
    sightings: Iterable[NonfiniteSighting], heads: Sequence[str]
) -> list[NonfiniteSighting]:
    """Return sightings in causal order: by phase, minibatch or step of an episode, and quantity.

    In one place: hosts before what is shared, that before heads, and Inf before NaN, which is
    often what an Inf has become.
    """
    place = {head: number for number, head in enumerate((HOSTS, SHARED, *heads))}
    return sorted(
        sightings,
        key=lambda s: (
            PHASES.index(s.phase),
            s.epoch,
            s.minibatch,
            s.step or 0 if s.phase in STEP_PHASES else 0,
            causal_rank(s.quantity),
            place[s.head],
            s.kind,
            -1 if s.host is None else s.host,
        ),
    )


class _Examination:
    def __init__(
        self,
        plan: Plan,
        anatomy: Anatomy,
        first: PassCodes,
        second: PassCodes,
        watch: UpdateWatch,
    ) -> None:
        self._plan, self._anatomy = plan, anatomy
        self._first, self._second = first, second
        self._unscaled = to_host(watch.unscaled_codes)
        self._start, *during = to_state([watch.start, *watch.states])
        self._states = [*during, second.end]
        sizes = [len(hosts) for hosts in plan.minibatches]
        self._hosts = torch.cat(list(plan.minibatches)).cpu().split(sizes)
        self._active = plan.rollout.active.cpu()  # [T, N, H]
        self._prepared_log_probs = torch.zeros_like(self._active)  # where they broke, [T, N, H]
        self._saturating = torch.zeros_like(self._start.parameters, dtype=torch.bool)  # [P]
        self._state_broke_once = False  # in the second pass, and not in the first
        self.ledger = _Ledger(plan.per_epoch)

    def lasting(self, known: Tensor) -> Tensor:
        """Report what the second pass saw; return the codes of harmless parameters."""
        start = self._start
        guilty: set[int] = set()
        prepared_trunk, prepared_value = self._prepared(
            self._second.prepared, self._first.prepared, start.parameters, guilty
        )
        self._saturating = self._known_to_saturate(prepared_trunk, prepared_value)
        advantages = self._explained_advantages(prepared_trunk, prepared_value)
        observed = {
            (seen.quantity, seen.kind, seen.host)
            for seen in self._plan.before
            if seen.phase == "acting" and seen.quantity == "observations"
        }
        for index in range(len(self._hosts)):
            found, owners = causes_in(
                self._counted(index),
                self._anatomy,
                self._around(index, self._states[index].parameters, prepared_trunk, advantages),
            )
            guilty |= owners
            # What only the second pass shows did not repeat either, unless the passes parted.
            reproduced = index in self._first.minibatches or self._parted(index)
            for finding in found:
                if finding.quantity == "loss_scale" and start.loss_scale:
                    continue
                if (finding.quantity, finding.kind, finding.host) not in observed:
                    self.ledger.add(finding, "update", index, reproduced=reproduced)
            self._state_changes(index)
        return self._given(start, guilty, known)

    def _known_to_saturate(self, trunk: Tensor, value: Tensor) -> Tensor:
        """Return which parameters were broken before the update and broke nothing in a forward
        pass, bool `[P]`: a broken weight of trunk or critic shows in every host and step.

        Args:
            trunk: where the trunk broke in the preparation, `[T, N]`.
            value: where the value did, `[T, N]`.
        """
        owner, broken = self._anatomy.owner, self._start.parameters > 0
        hosts = torch.cat(self._hosts[: self._plan.per_epoch])
        saturating = torch.zeros_like(broken)
        if not trunk[:, hosts].all():
            saturating |= broken & (owner == TRUNK)
        if not (trunk | value)[:, hosts].all():
            saturating |= broken & (owner == CRITIC)
        return saturating

    def _given(self, start: StateCodes, guilty: set[int], known: Tensor) -> Tensor:
        """Report state that was broken before the update; return what of it did no harm."""
        harmful = torch.isin(self._anatomy.owner, torch.tensor(sorted(guilty), dtype=torch.int64))
        harmful &= ~self._saturating
        new = (start.parameters > 0) & (start.parameters != known)
        owners = self._anatomy.owner
        harmful &= ~torch.isin(owners, owners[new]) | new  # what is new is to blame, if anything
        is_known = ~harmful & ~new
        told = start.parameters.masked_fill(is_known | self._is_mask(harmful), 0)
        for finding in _state_findings(replace(start, parameters=told), self._anatomy):
            self.ledger.add(finding, "given", reproduced=True)
        return start.parameters.masked_fill(harmful, 0)

    def _is_mask(self, harmful: Tensor) -> Tensor:
        """Return which parameters are the -inf by which a policy forbids a choice, `[P]`.

        They are biases of heads, and legal as long as no logit broke that counts.
        """
        return mask_biases(self._start.parameters, self._anatomy) & ~harmful

    def _state_changes(self, index: int) -> None:
        """Report the state that broke in a minibatch of the second pass.

        It is reproduced if the first pass broke its state, too, or had come to other weights.
        """
        start, before, after = self._start, self._states[index], self._states[index + 1]
        is_last = index == len(self._hosts) - 1
        moments = (after if is_last else before).excess(start)
        reproduced = self._is_state_reproduced(index + is_last)
        for finding in moment_findings(moments, self._anatomy):
            self._state_broke_once |= not reproduced
            self.ledger.add(finding, "update", index, reproduced=reproduced)
        if before.step or after.step:
            return  # Adam's clock explains whatever its step did
        known = before.parameters if index else start.parameters
        born = after.parameters.masked_fill(known > 0, 0)
        born = born.masked_fill((before.moments > 0) | (after.moments > 0), 0)
        reproduced = self._is_state_reproduced(index + 1)
        for finding in parameter_findings(born, self._anatomy, "parameters"):
            self.ledger.add(finding, "update", index, reproduced=reproduced)

    def _is_state_reproduced(self, index: int) -> bool:
        """Return whether state that the second pass broke before a minibatch is reproduced."""
        return self._first.end.is_bad or (self._parted(index) and not self._state_broke_once)

    def _counted(self, index: int) -> Codes:
        """Return the codes of a minibatch of the second pass, without overflow of the fp16 scale
        that is ordinary."""
        codes = self._second.minibatches[index]
        if not self._unscaled:
            return codes
        unscaled = self._unscaled[index]
        if any(bool(values.any()) for values in unscaled.values()):
            return _forward_only(codes) | unscaled
        # Where the forward pass broke already, the scale adds only noise.
        forward = _forward_only(codes)
        by_scale = any(bool(values.any()) for values in forward.values())
        by_scale |= bool(self._second.figures.overflow[index])
        return forward if by_scale else codes

    def _around(
        self,
        index: int,
        parameters: Tensor,
        prepared_trunk: Tensor,
        advantages: Tensor,
        phase: str = "update",
    ) -> Surroundings:
        hosts = self._hosts[index]
        return Surroundings(
            hosts=hosts,
            active=self._active[:, hosts],
            parameters=parameters,
            prepared_trunk=prepared_trunk[:, hosts],
            prepared_log_probs=self._prepared_log_probs[:, hosts] & (phase == "update"),
            explained_advantages=advantages[:, hosts],
            saturating=self._saturating & (parameters == self._start.parameters),
        )

    def _prepared(
        self,
        codes_by_part: Sequence[Codes],
        others_by_part: Sequence[Codes] | None,
        parameters: Tensor,
        guilty: set[int],
    ) -> tuple[Tensor, Tensor]:
        """Report what broke in the preparation; return where trunk and value did, `[T, N]`.

        Args:
            codes_by_part: of one pass.
            others_by_part: of the other, in which it must have broken too to be reproduced; None
                if it was not reproduced.
            parameters: codes of the parameters it was computed with, `[P]`.
            guilty: owners of parameters that explain something are added to it.
        """
        nowhere = torch.zeros(self._active.shape[:2], dtype=torch.bool)
        trunk, value = nowhere.clone(), nowhere.clone()
        for part, codes in enumerate(codes_by_part):
            hosts = self._hosts[part]
            found, owners = causes_in(
                codes,
                self._anatomy,
                self._around(part, parameters, nowhere, nowhere, "preparation"),
                with_inputs=False,
            )
            guilty |= owners
            others = others_by_part[part] if others_by_part is not None else {}
            reproduced = any(bool(values.any()) for values in others.values())
            for finding in found:
                self.ledger.add(finding, "preparation", reproduced=reproduced)
            trunk[:, hosts] = (codes["trunk"] > 0).any(2)
            value[:, hosts] = codes["value"] > 0
            self._prepared_log_probs[:, hosts] |= codes["old_log_prob"] > 0
        return trunk, value

    def _explained_advantages(self, trunk: Tensor, value: Tensor) -> Tensor:
        """Return where something that is reported explains why an advantage broke, `[T, N]`.

        An advantage is made of the rewards and values of its step and of all later ones. Values
        were computed while acting, from the same observations and with the same weights.

        Args:
            trunk: where the trunk broke in the preparation, `[T, N]`.
            value: where the value did.
        """
        rollout = self._plan.rollout

        def bad(values: Tensor) -> Tensor:
            return (code_of(values.cpu()) > 0).reshape(*values.shape[:2], -1).any(2)

        given = torch.stack([bad(part)[0] for part in rollout.initial_state]).any(0)  # [N]
        explained = bad(rollout.observations).cummax(0).values | given | trunk | value
        for seen in self._plan.before:  # of a head's logits, no value is made
            if seen.phase == "acting" and seen.head == SHARED and seen.host is not None:
                explained[:, seen.host] = True
        next_explained = torch.cat((explained[1:], explained[-1:]))
        values, next_values = bad(rollout.values), bad(rollout.next_values)
        next_values &= ~rollout.terminated.cpu()
        by_reported = (values & explained) | (next_values & next_explained)
        by_others = (values & ~explained) | (next_values & ~next_explained) | bad(rollout.rewards)
        return until_then(by_reported) & ~until_then(by_others)

    def once(self) -> None:
        """Report what only the first pass saw."""
        first, second = self._first, self._second
        lasting = {(seen.head, seen.quantity, seen.kind) for seen in self.ledger.sightings()}
        prepared = [
            _excess(mine, others)
            for mine, others in zip(first.prepared, second.prepared, strict=True)
        ]
        nothing = torch.zeros_like(self._start.parameters)
        nowhere = torch.zeros(self._active.shape[:2], dtype=torch.bool)
        self._prepared_log_probs = torch.zeros_like(self._active)
        trunk, _ = self._prepared(prepared, None, nothing, set())
        looks = {index: self._only_first(index) for index in first.minibatches}
        state = first.end.excess(second.end)
        births = self._births(looks, state.parameters)  # [P]
        for index, codes in looks.items():
            parameters = state.parameters.masked_fill(births > index, 0)
            gradient = first.minibatches[index]["gradient"]
            around = replace(
                self._around(index, parameters, trunk, nowhere),
                heads_sent=bool(gradient[self._anatomy.owner != TRUNK].any()),
            )
            for finding in causes_in(codes, self._anatomy, around)[0]:
                # Once the passes have parted, a lasting fault goes on in its own way in each.
                if not (self._parted(index) and finding.source in lasting):
                    self.ledger.add(finding, "update", index, reproduced=False)
        place = max(int(births.min()) - 1, 0) if state.parameters.any() else 0
        for finding in moment_findings(state, self._anatomy):
            self.ledger.add(finding, "update", place, reproduced=False)
        clock_broke = bool(first.end.step or self._start.step)
        if not clock_broke and state.parameters.any() and not first.figures.is_clock_right:
            clock_broke = True
            finding = Finding(SHARED, "moments", "nan", part=STEP_COUNTER)
            self.ledger.add(finding, "update", place, reproduced=False)
        if not clock_broke:
            by_moments = (first.end.moments > 0) | (self._start.moments > 0)
            by_step = state.parameters.masked_fill(by_moments, 0)
            for birth in births.unique().tolist():
                born = by_step.masked_fill(births != birth, 0)
                for finding in parameter_findings(born, self._anatomy, "parameters"):
                    self.ledger.add(finding, "update", max(birth - 1, 0), reproduced=False)

    def figures_alone(self) -> None:
        """Report figures of the first pass that broke although all they are made of was finite."""
        first, second = self._first.figures.scalars, self._second.figures.scalars
        for index, codes in self._first.minibatches.items():
            if any(bool(values.any()) for values in codes.values()):
                continue
            for name in AT_ONCE:
                if code := int(code_of(first[name][index])):
                    quantity, part = _FIGURE_OF.get(name, (name, ""))
                    again = not bool(second[name][index].isfinite())
                    finding = Finding(SHARED, quantity, KINDS[code], part=part)
                    self.ledger.add(finding, "update", index, reproduced=again)

    def _births(self, looks: Mapping[int, Codes], parameters: Tensor) -> Tensor:
        """Return the first minibatch that each parameter can have reached broken, `[P]`.

        A broken parameter shows in every minibatch from then on: one of the trunk or the critic in
        every host and step, one of a head in the logit of its choice. One that saturates may show
        in gradients alone.

        Args:
            looks: codes of the minibatches in which something broke.
            parameters: codes of those that are broken at the end of the first pass, `[P]`.
        """
        births = torch.full_like(parameters, len(self._hosts), dtype=torch.int64)
        anatomy = self._anatomy
        for owner in anatomy.owner[parameters > 0].unique().tolist():
            mine = (anatomy.owner == owner) & (parameters > 0)
            choices = anatomy.choice[mine].unique()
            for index in reversed(range(len(self._hosts))):
                if index not in looks:
                    break
                # Gradients that the loss scale explains are none of their own, but may show it.
                first, second = self._first.minibatches[index], self._second.minibatches[index]
                broke_backward = bool(excess(first["gradient"], second["gradient"]).any())
                if not (broke_backward or _shows(looks[index], owner, choices)):
                    break
                births[mine] = index
        # A broken moment breaks its parameter in the first step that is taken.
        figures = self._first.figures
        stepped = (~(figures.bad | figures.overflow | figures.stopped)).nonzero()
        if len(stepped):
            by_moments = (self._start.moments > 0) & (parameters > 0)
            births[by_moments] = births[by_moments].clamp(max=int(stepped[0]) + 1)
        return births

    def _only_first(self, index: int) -> Codes:
        """Return the codes of a minibatch in which the first pass differs from the second."""
        first, second = self._first, self._second
        codes = _excess(first.minibatches[index], second.minibatches[index])
        if self._parted(index):  # by then, what broke in both may have broken in other ways
            codes = {
                name: values.masked_fill(second.minibatches[index][name] > 0, 0)
                for name, values in codes.items()
            }
        elif any(bool(values.any()) for values in _forward_only(codes).values()):
            # A forward pass that differs gives other kinds to gradients that broke in both.
            codes |= {
                name: codes[name].masked_fill(second.minibatches[index][name] > 0, 0)
                for name in BACKWARD
                if name in codes
            }
        is_ordinary = bool(first.figures.overflow[index]) and (
            self._parted(index) or first.loss_scales[index] != second.loss_scales[index]
        )
        # The scale explains it: it is broken, or the passes had come to other weights by then.
        by_scale = is_ordinary or bool(first.minibatches[index]["loss_scale"])
        return _forward_only(codes) if by_scale else codes

    def _parted(self, index: int) -> bool:
        """Return whether the passes took different steps before a minibatch."""
        one, other = self._first.figures, self._second.figures

        def taken(figures: Figures) -> Tensor:
            return (figures.bad | figures.overflow | figures.stopped)[:index]

        return not torch.equal(taken(one), taken(other))


def _shows(codes: Codes, owner: int, choices: Tensor) -> bool:
    """Return whether the forward pass of a minibatch may have met a broken parameter.

    Args:
        codes: of the minibatch.
        owner: of the parameter.
        choices: whose logits it makes, if it is a head's.
    """
    trunk = (codes["trunk"] > 0).any(2)  # [T, n]
    if owner == TRUNK:
        return bool(trunk.all())
    if owner == CRITIC:
        return bool(((codes["value"] > 0) | trunk).all())
    return bool(trunk.all() or (codes["logits"][..., choices] > 0).flatten(0, 1).any(0).all())


def _forward_only(codes: Codes) -> Codes:
    return {name: values for name, values in codes.items() if name not in BACKWARD}


def _excess(codes: Codes, others: Codes) -> Codes:
    return {name: excess(values, others[name]) for name, values in codes.items() if name in others}


def prepared_codes(
    batch: Minibatch, output: PolicyOutput, old_log_probs: Tensor, table: HeadTable
) -> Codes:
    """Return the codes of what one part of the preparation computed.

    Args:
        batch: its episodes.
        output: what the policy returned for them.
        old_log_probs: of these episodes, `[T, n, H]`.
        table: of the policy.
    """
    return output_codes(batch, output, table) | {
        "observations": code_of(batch.observations),
        "old_log_prob": code_of(old_log_probs) * batch.active,
    }
