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
from esper.simic.growing.growth import Grown, Measured
from esper.simic.growing.growth_picture import growth_picture

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
        difference: largest difference of any logit between the written module and the host.
        onnx_difference: that of the ONNX file; None if there is none.
    """
    task = grown.task
    lines = [
        f"# A network grown on {short_name(task)}",
        "",
        f"Grown by the policy `{grown.policy.name}` in {counted(grown.steps, 'step')} of "
        f"{grown.samples} training samples, with random seed {grown.rng_seed}. {_chosen(grown)} "
        f"Made with Esper {VERSION}.",
        "",
        f"![How it grew]({PICTURE_NAME})",
        "",
        "|  | parameters | validation | test | multiply-adds of training |",
        "|---|--:|--:|--:|--:|",
        _row("**this network**", grown.result),
        _row("the same host without growth, same random seed", grown.without_growth),
        _row("this architecture, trained from scratch", grown.from_scratch),
        f"| always predicting the largest class | | {task.validation.largest_class:.3f} | "
        f"{task.test.largest_class:.3f} | |",
        "",
        f"Accuracy on {len(task.validation):,} validation samples, which the policy used, and on "
        f"{len(task.test):,} test samples, which were not used for any choice. Multiply-adds "
        "count the forward and backward passes of the host and all its seeds, pruned ones "
        "included.",
        "",
        *(line for warning in growth_warnings(grown) for line in (f"**{warning}**", "")),
        *(line for note in task.notes for line in (f"Note: {note}.", "")),
        "## How to use it",
        "",
        f"`{SOURCE_NAME}` and `{WEIGHTS_NAME}` need only torch:",
        "",
        *_snippet(task),
        "",
        f"Inputs are {_inputs(task)}. {_meaning(task)} The module was run on the whole test part "
        f"and its logits differ from those of the grown network by at most {difference:.1e}.",
        "",
        *_about_onnx(onnx_difference),
        "## Architecture",
        "",
        f"A {grown.network.shape.kind} host of three blocks with "
        f"{grown.network.shape.channels} channels, with these seeds after its blocks:",
        "",
        *_seeds(grown),
        "",
        "## How it grew",
        "",
        *_events(grown),
    ]
    return "\n".join(lines) + "\n"


def growth_summary(grown: Grown) -> str:
    """Return the result of growing in a few lines."""
    seeds = ", ".join(f"{seed.blueprint} ({seed.slot})" for seed in grown.network.seeds)
    others = (("without growth", grown.without_growth), ("from scratch", grown.from_scratch))
    lines = [
        f"grew on {short_name(grown.task)} in {counted(grown.steps, 'step')}: "
        f"{seeds or 'no seed was fossilized'}",
        *(
            f"{name:<15} {each.parameters:>8,} parameters, accuracy {each.validation_accuracy:.3f} "
            f"in validation, {each.test_accuracy:.3f} in test"
            for name, each in (("this network", grown.result), *others)
        ),
        f"{'largest class':<15} {'':>20} accuracy {grown.task.validation.largest_class:.3f} "
        f"in validation, {grown.task.test.largest_class:.3f} in test",
    ]
    return "\n".join([*lines, *growth_warnings(grown)])


def growth_warnings(grown: Grown) -> list[str]:
    """Return a sentence for each simpler network that is as good in validation."""
    result = grown.result.validation_accuracy
    warnings = []
    if result <= grown.task.validation.largest_class:
        warnings.append(
            "This network is no better in validation than always predicting the largest class."
        )
    if grown.without_growth.validation_accuracy >= result:
        warnings.append(_no_help(grown))
    return warnings


def _no_help(grown: Grown) -> str:
    without, result = (
        measured.validation_accuracy for measured in (grown.without_growth, grown.result)
    )
    sentence = (
        f"Growth did not help here: validation accuracy is {without:.3f} without it and "
        f"{result:.3f} in this network."
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
        return "It is the only network that was grown."
    return (
        f"It is the best of {count} networks by validation accuracy (minimum "
        f"{grown.rivals.min():.3f}, mean {grown.rivals.mean():.3f}, maximum "
        f"{grown.rivals.max():.3f})."
    )


def _row(name: str, measured: Measured) -> str:
    return (
        f"| {name} | {measured.parameters:,} | {measured.validation_accuracy:.3f} | "
        f"{measured.test_accuracy:.3f} | {measured.multiply_adds:.2e} |"
    )


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
