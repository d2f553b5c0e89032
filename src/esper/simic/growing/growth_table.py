"""The figures of a grown network beside its opponents, as Markdown and as lines of text."""

from typing import Final

from esper.simic.growing.candidates import NAMES, Candidate, Kind
from esper.simic.growing.module_training import Run
from esper.simic.growing.records import Comparison, Grown, Measured

#: Width of the names in lines of text.
NAME_WIDTH: Final = 18
_SHORT: Final[dict[Kind, str]] = {
    "grown": "grown network",
    "host": "without growth",
    "scratch": "from scratch",
    "plain": "plain network",
}


def final_accuracies(grown: Grown) -> tuple[float, float]:
    """Return the last validation accuracy of the grown network, and of its host without growth."""
    if grown.comparison is None:
        return grown.result.validation_accuracy, grown.without_growth.validation_accuracy
    by_kind = {each.kind: each.finished for each in grown.comparison.candidates}
    return by_kind["grown"].validation_accuracy, by_kind["host"].validation_accuracy


def written_accuracy(grown: Grown) -> float:
    """Return the validation accuracy of the network that is written."""
    if grown.comparison is None:
        return grown.result.validation_accuracy
    return grown.comparison.chosen.finished.validation_accuracy


def result_lines(grown: Grown) -> list[str]:
    """Return the accuracies of all networks as lines of text."""
    if grown.comparison is None:
        rows = (
            ("grown network", grown.result),
            ("without growth", grown.without_growth),
            ("from scratch", grown.from_scratch),
        )
        return [
            _line(name, each.parameters, each.validation_accuracy, each.test_accuracy)
            for name, each in rows
        ]
    return [
        _line(
            _SHORT[each.kind],
            each.size.parameters,
            each.finished.validation_accuracy,
            each.finished.test_accuracy,
        )
        + (" (written)" if each is grown.comparison.chosen else "")
        for each in grown.comparison.candidates
    ]


def _line(name: str, parameters: int, validation: float, test: float) -> str:
    return (
        f"{name:<{NAME_WIDTH}} {parameters:>8,} parameters, accuracy {validation:.3f} "
        f"in validation, {test:.3f} in test"
    )


def comparison_lines(grown: Grown) -> list[str]:
    """Return the table of finished networks as lines of Markdown; of grown ones if none is."""
    if grown.comparison is None:
        return _table_of_growing(grown)
    task, comparison = grown.task, grown.comparison
    return [
        "|  | parameters | bytes | multiply-adds | validation | test | seconds |",
        "|---|--:|--:|--:|--:|--:|--:|",
        *(_row(each, is_written=each is comparison.chosen) for each in comparison.candidates),
        f"| always predicting the largest class | | | | {task.validation.largest_class:.3f} | "
        f"{task.test.largest_class:.3f} | |",
        "",
        f"All networks were finished alike: {_schedule(comparison)} {_measured(grown, comparison)} "
        "Multiply-adds are those of one sample in use. Seconds are those of all training, the "
        "trials of rates included, and growing for the grown network.",
        "",
        *_excesses(comparison),
    ]


def _row(candidate: Candidate, *, is_written: bool) -> str:
    name = NAMES[candidate.kind] + (f" ({candidate.about})" if candidate.about else "")
    size, finished = candidate.size, candidate.finished
    return (
        f"| {f'**{name}: this network**' if is_written else name} | {size.parameters:,} | "
        f"{size.bytes:,} | {size.multiply_adds:,} | {finished.validation_accuracy:.3f} | "
        f"{finished.test_accuracy:.3f} | {candidate.seconds:.1f} |"
    )


def _schedule(comparison: Comparison) -> str:
    runs = ", ".join(
        f"{_SHORT[each.kind]} {each.finished.run.rate:g} and {_minibatches(each.finished.run)}"
        for each in comparison.candidates
    )
    kept = "" if comparison.folds > 1 else ", and the best weights of a run were kept"
    return (
        "Adam, with a rate that rises and falls to 0. Rate and length were chosen by validation "
        f"accuracy{kept} ({runs} minibatches)."
    )


def _minibatches(run: Run) -> str:
    return f"{run.stop:,}" + (f" of {run.length:,}" if run.stop < run.length else "")


def _measured(grown: Grown, comparison: Comparison) -> str:
    task = grown.task
    if comparison.folds == 1:
        return (
            f"Accuracy on {len(task.validation):,} validation samples, which were used for these "
            f"choices, and on {len(task.test):,} test samples, which were not used for any choice."
        )
    samples = len(task.train) + len(task.validation)
    twice = " drawn twice" if comparison.repeats == 2 else ""
    return (
        f"Validation accuracy is the mean over {comparison.folds} stratified folds{twice} of "
        f"{samples:,} samples; the networks were then trained on all of these. The architecture of "
        f"the grown network grew in {comparison.grown_alike} of "
        f"{comparison.folds * comparison.repeats} folds. The "
        f"{len(task.test):,} test samples were not used for any choice."
    )


def _excesses(comparison: Comparison) -> list[str]:
    lines = [
        f"{NAMES[each.kind].capitalize()} could not be chosen: it has {each.excess}."
        for each in comparison.candidates
        if each.excess
    ]
    if "plain" not in {each.kind for each in comparison.candidates}:
        lines.append("No plain network of at most this size is within the limits.")
    return [part for line in lines for part in (line, "")]


def when_growing_ended(grown: Grown) -> list[str]:
    """Return the figures from before networks were finished as lines of Markdown."""
    if grown.comparison is None:
        return []
    return ["When growing ended, before anything was finished:", "", *_table_of_growing(grown)]


def _table_of_growing(grown: Grown) -> list[str]:
    task = grown.task
    return [
        "|  | parameters | validation | test | multiply-adds of training |",
        "|---|--:|--:|--:|--:|",
        _growing_row("**the grown network**", grown.result),
        _growing_row("the same host without growth, same random seed", grown.without_growth),
        _growing_row("this architecture, trained from scratch", grown.from_scratch),
        f"| always predicting the largest class | | {task.validation.largest_class:.3f} | "
        f"{task.test.largest_class:.3f} | |",
        "",
        f"Accuracy on {_validation_size(grown):,} validation samples, which the policy used, and "
        f"on {len(task.test):,} test samples, which were not used for any choice. Multiply-adds "
        "count the forward and backward passes of the host and all its seeds, pruned ones "
        "included.",
        "",
    ]


def _validation_size(grown: Grown) -> int:
    if grown.comparison is None or grown.comparison.folds == 1:
        return len(grown.task.validation)
    samples = len(grown.task.train) + len(grown.task.validation)
    return samples // grown.comparison.folds


def _growing_row(name: str, measured: Measured) -> str:
    return (
        f"| {name} | {measured.parameters:,} | {measured.validation_accuracy:.3f} | "
        f"{measured.test_accuracy:.3f} | {measured.multiply_adds:.2e} |"
    )
