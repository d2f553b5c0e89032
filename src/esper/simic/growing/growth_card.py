"""The card of a grown network: how it grew, its results and how to use it, as Markdown."""

from pathlib import Path

from esper.growth.export.module_files import SOURCE_NAME, WEIGHTS_NAME
from esper.growth.export.module_source import short_name
from esper.growth.export.onnx_file import INPUT, ONNX_NAME, OUTPUT
from esper.growth.hosts.seeds import SeedEvent
from esper.growth.tasks.task import Task
from esper.leyline.heads import BLUEPRINT_CHOICES, SLOT_CHOICES
from esper.leyline.task_names import parse_task_name
from esper.leyline.text.plurals import counted
from esper.leyline.version import VERSION
from esper.simic.growing.growth_picture import growth_picture
from esper.simic.growing.growth_table import (
    NAME_WIDTH,
    comparison_lines,
    final_accuracies,
    result_lines,
    when_growing_ended,
    written_accuracy,
)
from esper.simic.growing.records import Grown

CARD_NAME, PICTURE_NAME = "card.md", "growth.svg"


def write_card(
    grown: Grown, difference: float, directory: Path, onnx_difference: float | None = None
) -> None:
    """Write the card of a network, and the picture of its growth, into its folder.

    Args:
        grown: the network.
        difference: largest difference of any logit between the written module and the host.
        directory: the folder.
        onnx_difference: that of the ONNX file; None if there is none.

    Raises:
        OSError: they cannot be written.
    """
    (directory / CARD_NAME).write_text(
        growth_card(grown, difference, onnx_difference), encoding="utf-8"
    )
    (directory / PICTURE_NAME).write_text(growth_picture(grown), encoding="utf-8")


def growth_card(grown: Grown, difference: float, onnx_difference: float | None = None) -> str:
    """Return the card of a network.

    Args:
        grown: the network.
        difference: largest difference of any logit between the written module and the network.
        onnx_difference: that of the ONNX file; None if there is none.
    """
    task = grown.task
    is_grown, seeds = grown.written in ("grown", "scratch"), grown.network.seeds
    lines = [
        f"# A network {'grown on' if is_grown and seeds else 'for'} {short_name(task)}",
        "",
        f"The policy `{grown.policy.name}` grew networks in {counted(grown.steps, 'step')} of "
        f"{grown.samples} training samples, with random seed {grown.rng_seed}. {_chosen(grown)} "
        f"Made with Esper {VERSION}.",
        "",
        *(f"**This is {line}.**\n" for line in _headlines(grown)),
        *comparison_lines(grown),
        *(line for warning in growth_warnings(grown) for line in (f"**{warning}**", "")),
        *(line for note in task.notes for line in (f"Note: {note}.", "")),
        *(line for note in grown.notes for line in (f"Limit: {note}.", "")),
        "## How to use it",
        "",
        f"`{SOURCE_NAME}` and `{WEIGHTS_NAME}` need only torch:",
        "",
        *_snippet(task),
        "",
        f"Inputs are {_inputs(task)}. {_meaning(task)} The module was run on the whole test part "
        f"and its logits differ from those of the network in memory by at most {difference:.1e}.",
        "",
        *_about_onnx(onnx_difference),
        "## Architecture",
        "",
        *_architecture(grown),
        "",
        "## How it grew",
        "",
        *(() if is_grown else ("This is about the grown network, which was not written.", "")),
        f"![How it grew]({PICTURE_NAME})",
        "",
        *when_growing_ended(grown),
        *_events(grown),
        "",
        "## What the policy decided, and why",
        "",
        *grown.decisions,
    ]
    return "\n".join(lines) + "\n"


def growth_summary(grown: Grown) -> str:
    """Return the result of growing in a few lines."""
    seeds = ", ".join(f"{seed.blueprint} ({seed.slot})" for seed in grown.network.seeds)
    lines = [
        f"grew on {short_name(grown.task)} in {counted(grown.steps, 'step')}: "
        f"{seeds or 'no seed was fossilized'}",
        *result_lines(grown),
        f"{'largest class':<{NAME_WIDTH}} {'':>20} accuracy "
        f"{grown.task.validation.largest_class:.3f} in validation, "
        f"{grown.task.test.largest_class:.3f} in test",
        *(f"written: {line}" for line in _headlines(grown)),
        *(f"limit: {note}" for note in grown.notes),
    ]
    return "\n".join([*lines, *growth_warnings(grown)])


def _headlines(grown: Grown) -> list[str]:
    """Return which of the finished networks is written, and why."""
    return [] if grown.comparison is None else [grown.comparison.reason]


def growth_warnings(grown: Grown) -> list[str]:
    """Return a sentence for each simpler network that is as good in validation."""
    result, without = final_accuracies(grown)
    warnings = []
    if written_accuracy(grown) <= grown.task.validation.largest_class:
        warnings.append(
            "This network is no better in validation than always predicting the largest class."
        )
    if without >= result:
        warnings.append(_no_help(grown, without, result))
    return warnings


def _no_help(grown: Grown, without: float, result: float) -> str:
    sentence = (
        f"Growth did not help here: validation accuracy is {without:.3f} without it and "
        f"{result:.3f} in the grown network."
    )
    trained_on = parse_task_name(grown.policy.config.task).short
    if trained_on == short_name(grown.task):
        return sentence
    return (
        f"{sentence} The policy `{grown.policy.name}` was trained on {trained_on}; train one "
        "on this task with `esper ppo --task` and give it with `--policy`."
    )


def _chosen(grown: Grown) -> str:
    count = len(grown.rivals)
    if count == 1:
        return "Only one network grew." if not _folds(grown) else "One grew in each fold."
    return (
        f"The grown network is the best of {count} networks by validation accuracy (minimum "
        f"{grown.rivals.min():.3f}, mean {grown.rivals.mean():.3f}, maximum "
        f"{grown.rivals.max():.3f})."
    )


def _folds(grown: Grown) -> bool:
    return grown.comparison is not None and grown.comparison.folds > 1


def _architecture(grown: Grown) -> list[str]:
    shape = grown.network.shape
    host = f"A {shape.kind} host of three blocks with {shape.channels} channels"
    if grown.written == "plain":
        assert grown.comparison is not None
        return [f"A plain network: {grown.comparison.chosen.about}."]
    if grown.written == "host":
        return [f"{host}, without seeds."]
    return [f"{host}, with these seeds after its blocks:", "", *_seeds(grown)]


def _snippet(task: Task) -> list[str]:
    """Return a program of four lines that loads the network and runs it on a sample."""
    if task.vocabulary:
        example = "".join(task.vocabulary[symbol] for symbol in task.test.inputs[0].tolist())
        lines = [
            "import torch",
            "from model import CLASSES, load",
            f"symbols = [CLASSES.index(character) for character in {example!r}]",
            "print(CLASSES[load()(torch.tensor([symbols])).argmax()])",
        ]
    else:
        shape = ", ".join(map(str, task.raw(task.test).shape[1:]))
        lines = [
            "import torch",
            "from model import CLASSES, load",
            "network = load()",
            f"print(CLASSES[network(torch.zeros(1, {shape})).argmax()])",
        ]
    return ["```python", *lines, "```"]


def _inputs(task: Task) -> str:
    shape = ", ".join(map(str, task.raw(task.test).shape[1:]))
    if task.vocabulary:
        return f"indices of characters in `CLASSES`, `[B, {shape}]`"
    return (
        f"raw samples, not standardised, `[B, {shape}]`, of any numeric type: the network "
        "standardises them with the mean and std of the training data"
    )


def _about_onnx(difference: float | None) -> list[str]:
    if difference is None:
        return []
    return [
        f"`{ONNX_NAME}` is the same network for ONNX Runtime and other programs without PyTorch. "
        f"Its input `{INPUT}` takes any number of samples, its output is `{OUTPUT}`; CLASSES is in "
        f"`{SOURCE_NAME}`. It was run on the whole test part: at most {difference:.1e} difference.",
        "",
    ]


def _meaning(task: Task) -> str:
    if task.vocabulary:
        return "Outputs are logits of the next character."
    return f"Outputs are logits of the classes in `CLASSES`, `[B, {task.classes}]`."


def _seeds(grown: Grown) -> list[str]:
    if not grown.network.seeds:
        return ["none (the policy fossilized no seed)"]
    rows = [
        f"| {seed.slot} | {seed.blueprint} | {seed.style} | {seed.alpha:g} | {seed.parameters:,} |"
        for seed in grown.network.seeds
    ]
    return ["| slot | blueprint | style | alpha | parameters |", "|---|---|---|--:|--:|", *rows]


_WORDS = {
    SeedEvent.GERMINATE: "germinated",
    SeedEvent.ADVANCE: "began to blend in",
    SeedEvent.ARRIVE: "reached its alpha",
    SeedEvent.RETARGET: "got a new target alpha",
    SeedEvent.FOSSILIZE: "fossilized: now a permanent part",
    SeedEvent.PRUNE: "was pruned",
}


def _events(grown: Grown) -> list[str]:
    rows = [
        f"| {step} | {SLOT_CHOICES[each.slot]} | {BLUEPRINT_CHOICES[each.blueprint]} | "
        f"{_WORDS[each.cause]} | {moment.accuracy:.3f} |"
        for step, moment in enumerate(grown.moments)
        for each in moment.happened
        if each.cause in _WORDS
    ]
    if not rows:
        return ["No seed germinated."]
    return [
        "| step | slot | seed | what happened | accuracy after the step |",
        "|--:|---|---|---|--:|",
        *rows,
    ]
