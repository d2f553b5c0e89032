"""The report of `esper replay`: text or JSON."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from esper.leyline.telemetry import STEP_PHASES, NonfiniteSighting
from esper.leyline.text.origin_words import cause_words
from esper.leyline.text.sighting_words import KIND_WORDS, joined, minibatch_words, sighting_words
from esper.leyline.text.source_paths import short_path
from esper.simic.replay.replaying import Replay
from esper.simic.replay.verdict import REPRODUCED
from esper.tracing.operations import Operation, Place, Poison, Scalar, TensorRange
from esper.tracing.origin import Origin

_VERDICT_STYLES = {REPRODUCED: "bold green"}
_SHOWN_STEPS = 12  # steps of a chain; an unrolled LSTM has hundreds


@dataclass(frozen=True)
class Step:
    """Consecutive operations of one source line."""

    operations: tuple[Operation, ...]

    @property
    def first(self) -> Operation:
        """Return the first operation."""
        return self.operations[0]

    @property
    def names(self) -> str:
        """Return the names of the operations, each once."""
        return ", ".join(dict.fromkeys(operation.name for operation in self.operations))

    @property
    def count(self) -> str:
        """Return how many there are, if more than are named."""
        named = len({operation.name for operation in self.operations})
        return f" ({len(self.operations)} times)" if len(self.operations) > named else ""


def steps_of(origin: Origin) -> list[Step]:
    """Return a chain with neighbouring operations of one line put together."""

    def line(operation: Operation) -> tuple[Place, str, str]:
        return operation.place, operation.module, operation.phase

    return [Step(tuple(operations)) for _, operations in groupby(origin.chain, key=line)]


def moment(replay: Replay, operation: Operation, per_epoch: int) -> str:
    """Return the phase, epoch and minibatch of an operation, in words."""
    if replay.is_acting:
        return f"{operation.phase}, while acting"
    epoch, minibatch = _place(operation, per_epoch)
    if minibatch is None:
        return f"before the first minibatch of update {replay.update}"
    return joined(operation.phase, minibatch_words(epoch or 0, minibatch))


def _place(operation: Operation, per_epoch: int) -> tuple[int | None, int | None]:
    """Return epoch and minibatch, counted from 1; without epochs, the minibatch of the update."""
    at = operation.minibatch
    if at is None:
        return None, None
    return (at // per_epoch + 1, at % per_epoch + 1) if per_epoch else (None, at + 1)


def values_of(part: TensorRange) -> str:
    """Return the range of a tensor's finite values and the counts of the others, in words."""
    finite = (
        "no finite value"
        if part.minimum is None or part.maximum is None
        else f"{part.minimum:.4g} to {part.maximum:.4g}"
    )
    counts = {"NaN": part.nan, "+Inf": part.plus_inf, "-Inf": part.minus_inf}
    others = [f"{count} {kind}" for kind, count in counts.items() if count]
    return ", ".join([finite, *others])


def name_of(part: TensorRange) -> str:
    """Return the name of an argument, and of the known tensor that it is."""
    return f"{part.name} = {part.of}" if part.of else part.name


def number_name(number: Scalar) -> str:
    """Return the name of a number among the arguments, and of the setting that it is."""
    setting = number.of.removeprefix("setting ")
    return f"{number.name} = {setting}" if setting else number.name


def kind_of(part: TensorRange) -> str:
    """Return the type and the shape of a tensor."""
    return f"{part.dtype}[{', '.join(map(str, part.shape))}]"


def replay_text(replay: Replay, run: str, number: int, per_epoch: int) -> Group:
    """Return the report as text.

    Args:
        replay: the report.
        run: the run's name.
        number: number of the incident in the run.
        per_epoch: minibatches of an epoch; 0 where minibatches are counted by update, as in a
            watched run.
    """
    return Group(*_sections(replay, run, number, per_epoch))


def _sections(replay: Replay, run: str, number: int, per_epoch: int) -> Iterator[RenderableType]:
    heading = Text(f"incident {number} of {run}", style="bold").append(
        f", update {replay.update}, recorded with {replay.recorded_with}", style="not bold"
    )
    yield heading
    yield Text(replay.verdict.upper(), style=_VERDICT_STYLES.get(replay.verdict, "yellow"))
    for sentence in (*replay.differences, *replay.remarks):
        yield Text(f"  {sentence}")
    yield Text()
    for title, sightings in (("recorded", replay.recorded), ("seen now", replay.seen)):
        for position, sighting in enumerate(sightings):
            label = title if position == 0 else ""
            yield Text(f"{label:10}{sighting_words(sighting)}{_times(sighting)}")
    for position, poison in enumerate(replay.poisons):
        label = "given" if position == 0 else ""
        yield Text(f"{label:10}{poison} is {poison.kind} before anything is computed")
    if replay.origin is None:
        if replay.seen:
            yield Text(f"\n{unconnected(replay)}")
        return
    yield from _origin(replay, replay.origin, per_epoch)


def unconnected(replay: Replay) -> str:
    """Return the sentence for a replay without an origin."""
    if not replay.poisons:
        return "No operation leads to the sightings."
    given = ", ".join(f"{poison} = {poison.kind}" for poison in replay.poisons)
    return f"No operation leads to the sightings. Non-finite inputs of the update: {given}."


def _origin(replay: Replay, origin: Origin, per_epoch: int) -> Iterator[RenderableType]:
    operation = origin.operation
    yield Text()
    yield Text("It began in ", style="bold").append(operation.name, style="bold red")
    facts = [
        ("cause", cause_words(origin.cause)),
        ("when", moment(replay, operation, per_epoch)),
        ("module", operation.module or "outside any module"),
        ("derivative", operation.autograd),
        (
            "line",
            f"{short_path(operation.place.file)}:{operation.place.line}, "
            f"{operation.place.function}",
        ),
        ("", operation.place.code),
    ]
    for name, text in facts:
        if text:
            yield Text(f"  {name:11}", style="dim").append(text, style="not dim")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "tensor", "shape", "values", "first"):
        table.add_column(title, style="dim" if not title else "", overflow="fold")
    for side, parts in (("in", operation.inputs), ("out", operation.outputs)):
        for part in parts:
            first = str(list(part.first)) if part.first else ""
            cells = (f"  {side}", name_of(part), kind_of(part), values_of(part), first)
            table.add_row(*(Text(cell) for cell in cells))
        for number in operation.scalars if side == "in" else ():
            cells = ("  in", number_name(number), "number", f"{number.value:.4g}", "")
            table.add_row(*(Text(cell) for cell in cells))
    yield table
    yield Text()
    yield Text("How it spread", style="bold")
    for line in chain_lines(replay, origin):
        yield Text(f"  {line}")


def chain_lines(replay: Replay, origin: Origin) -> list[str]:
    """Return the chain from the origin to the sighting, a line for each source line."""
    steps = steps_of(origin)
    lines = [
        f"{step.names}{step.count}  {step.first.module or step.first.place.function}  "
        f"{short_path(step.first.place.file)}:{step.first.place.line}"
        + (f"  {step.first.autograd}" if step.first.autograd else "")
        for step in steps
    ]
    if len(lines) > _SHOWN_STEPS:
        half = _SHOWN_STEPS // 2
        lines[half:-half] = [f"… {len(lines) - 2 * half} more lines"]
    seen = replay.seen[0]
    return [*lines, seen_line(origin, seen)]


def seen_line(origin: Origin, seen: NonfiniteSighting) -> str:
    """Return the last line of a chain: the sighting, and the end of the chain if it differs."""
    line = f"seen in {seen.head} {seen.quantity} as {KIND_WORDS.get(seen.kind, seen.kind)}"
    return f"reached {origin.reached}; {line}" if origin.reached else line


def replay_as_json(replay: Replay, run: str, number: int, per_epoch: int) -> dict[str, Any]:
    """Return the report as plain values; keys are only ever added."""
    origin = replay.origin
    return {
        "run": run,
        "incident": number,
        "update": replay.update,
        "acting": replay.is_acting,
        "verdict": replay.verdict,
        "differences": list(replay.differences),
        "remarks": list(replay.remarks),
        "recorded_with": replay.recorded_with,
        "recorded": [_sighting(one) for one in replay.recorded],
        "seen": [_sighting(one) for one in replay.seen],
        "poisoned_inputs": [_poison(poison) for poison in replay.poisons],
        "origin": None
        if origin is None
        else {
            **_operation(origin.operation, per_epoch),
            "cause": origin.cause,
            "inputs": [asdict(part) for part in origin.operation.inputs],
            "scalars": {number.name: number.value for number in origin.operation.scalars},
            "outputs": [asdict(part) for part in origin.operation.outputs],
            "poisons": [_poison(poison) for poison in origin.operation.poisons],
        },
        "chain": []
        if origin is None
        else [_operation(operation, per_epoch) for operation in origin.chain],
    }


def _operation(operation: Operation, per_epoch: int) -> dict[str, Any]:
    epoch, minibatch = _place(operation, per_epoch)
    return {
        "op": operation.name,
        "phase": operation.phase,
        "epoch": epoch,
        "minibatch": minibatch,
        "module": operation.module,
        "derivative": operation.autograd,
        "file": operation.place.file,
        "line": operation.place.line,
        "function": operation.place.function,
        "code": operation.place.code,
    }


def _sighting(sighting: NonfiniteSighting) -> dict[str, Any]:
    return {name: getattr(sighting, name) for name in sighting.__struct_fields__}


def _poison(poison: Poison) -> dict[str, Any]:
    return {"name": poison.name, "index": list(poison.index), "kind": poison.kind}


def _times(sighting: NonfiniteSighting) -> str:
    """Return the number of minibatches or steps of a sighting, if more than one."""
    unit = "steps" if sighting.phase in STEP_PHASES else "minibatches"
    return f", in {sighting.count} {unit}" if sighting.count > 1 else ""
