"""Figures of each action head over one PPO update: declared and described once, here.

A field of `HeadFigures` carries its description. Event payloads and snapshots hold the struct;
store rows, telemetry records, screens, verdicts and synthetic runs iterate over `HEAD_FIGURES`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Final, get_type_hints

import msgspec

from esper.leyline.thresholds import Thresholds

#: A figure by head name. A head that was never active in the update may be absent.
ByHead = dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadFigure:
    """Description of one per-head figure.

    Attributes:
        number: number of its telemetry record: `TELE-<number>`.
        name: full name.
        label: label in the table of action heads.
        chart_label: label in the history of one head.
        question: question that the figure answers.
        meaning: definition, in full sentences.
        range: possible values, in words.
        unit: unit; "–" for none.
        priority: priority of its telemetry record: P0 critical, P1 important, P2 useful.
        thresholds: healthy range; without bounds, the figure is shown but never judged.
        causes: usual causes of an unhealthy value.
        chart_rank: position among the charts of one head; None keeps no history, so that only the
            latest value is shown.
        verdict_rank: position among the reasons of a run's verdict.
        min_active_fraction: smallest active fraction of a head whose figure is judged, 0 to 1.
        field: name of the field of `HeadFigures`, which is also the key of stored events.
    """

    number: int
    name: str
    label: str
    chart_label: str
    question: str
    meaning: str
    range: str
    unit: str = "–"
    priority: str = "P1"
    thresholds: Thresholds = dataclasses.field(default_factory=Thresholds)
    causes: tuple[str, ...] = ()
    chart_rank: int | None = None
    verdict_rank: int = 100
    min_active_fraction: float = 0.0
    field: str = ""

    @property
    def column(self) -> str:
        """Name of the figure in the store's table `head_health`."""
        return self.field.removeprefix("head_")

    @property
    def snapshot_path(self) -> str:
        """Path of the figure in a snapshot."""
        return f"tamiyo.figures.{self.field}"

    def of(self, figures: "HeadFigures") -> Mapping[str, float]:
        """Return the figure's values by head."""
        values: Mapping[str, float] = getattr(figures, self.field)
        return values


class HeadFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of each action head over the minibatches that one PPO update learned from.

    Stored events have the fields as keys: a field keeps its name and its default.
    """

    head_entropy: Annotated[
        ByHead,
        HeadFigure(
            number=310,
            name="Head Entropy",
            label="Entropy",
            chart_label="Entropy",
            question="Is each head still exploring?",
            meaning=(
                "Mean entropy over the steps in which the head was active, divided by its maximum: "
                "the logarithm of the number of legal choices."
            ),
            range="0 (always the same choice) to 1 (all legal choices equally probable)",
            unit="fraction of the maximum",
            thresholds=Thresholds(healthy="0.02 to 1", warn_below=0.02),
            causes=(
                "the policy collapsed to one choice: raise the entropy bonus",
                "only one choice is legal",
            ),
            chart_rank=1,
            verdict_rank=6,
            # The entropy of a rarely active head rests on a few steps, which may have had only one
            # legal choice each.
            min_active_fraction=0.05,
        ),
    ] = {}
    head_gradient_norm: Annotated[
        ByHead,
        HeadFigure(
            number=311,
            name="Head Gradient Norm",
            label="Grad norm",
            chart_label="Gradient norm",
            question="How large is the gradient of each head's own parameters?",
            meaning=(
                "L2 norm of the gradient of the head's rows of the joint projection, before "
                "clipping; mean over minibatches."
            ),
            range="0 upwards",
            thresholds=Thresholds(healthy="below 50", warn_above=50.0),
            causes=("advantages that are not normalised", "a ratio that exploded"),
            chart_rank=3,
            verdict_rank=2,
        ),
    ] = {}
    head_ratio_max: Annotated[
        ByHead,
        HeadFigure(
            number=312,
            name="Head Ratio Max",
            label="Ratio max",
            chart_label="Ratio max",
            question="How far did the probability of any choice taken move in this update?",
            meaning=(
                "Largest ratio of new to old probability of the choice that was taken, over the "
                "steps in which the head was active, of minibatches that were learned from. "
                "Exactly 1 on the first minibatch."
            ),
            range="0 upwards",
            thresholds=Thresholds(healthy="1 to 10", warn_above=10.0),
            causes=("learning rate too high", "too many epochs on the same data"),
            chart_rank=2,
            verdict_rank=1,
        ),
    ] = {}
    head_clip_fraction: Annotated[
        ByHead,
        HeadFigure(
            number=313,
            name="Head Clip Fraction",
            label="Clip",
            chart_label="Clip fraction",
            question="How much of each head's data is beyond the clip range?",
            meaning=(
                "Fraction of the steps in which the head was active whose own ratio differs from 1 "
                "by more than the clip range."
            ),
            range="0 to 1",
            thresholds=Thresholds(healthy="below 0.5", warn_above=0.5),
            causes=("learning rate too high", "too many epochs on the same data"),
            chart_rank=4,
            verdict_rank=4,
        ),
    ] = {}
    head_kl: Annotated[
        ByHead,
        HeadFigure(
            number=314,
            name="Head KL",
            label="KL",
            chart_label="KL",
            question="Which heads changed when the policy changed?",
            meaning=(
                "Estimate r - 1 - log r of the KL divergence between the head's old and new "
                "distribution (Schulman, 2020), mean over the steps in which it was active."
            ),
            range="0 upwards",
            unit="nat",
            thresholds=Thresholds(healthy="below 0.1", warn_above=0.1),
            causes=("learning rate too high",),
            verdict_rank=3,
        ),
    ] = {}
    head_log_prob_min: Annotated[
        ByHead,
        HeadFigure(
            number=315,
            name="Head Log-Prob Min",
            label="Log p min",
            chart_label="log p min",
            question="How improbable was the least probable choice that was taken?",
            meaning=(
                "Smallest log-probability of a choice taken, in minibatches that were learned "
                "from. It falls towards -Inf before the head becomes non-finite."
            ),
            range="-Inf to 0",
            unit="nat",
            priority="P2",
            thresholds=Thresholds(healthy="above -20", warn_below=-20.0),
            causes=("logits that grow without bound",),
            verdict_rank=5,
        ),
    ] = {}
    head_log_prob_max: Annotated[
        ByHead,
        HeadFigure(
            number=316,
            name="Head Log-Prob Max",
            label="Log p max",
            chart_label="log p max",
            question="How probable was the most probable choice that was taken?",
            meaning=(
                "Largest log-probability of a choice taken, in minibatches that were learned from; "
                "0 is certainty."
            ),
            range="-Inf to 0",
            unit="nat",
            priority="P2",
        ),
    ] = {}
    head_active_fraction: Annotated[
        ByHead,
        HeadFigure(
            number=317,
            name="Head Active Fraction",
            label="Active",
            chart_label="active",
            question="How often did the head's choice matter?",
            meaning=(
                "Fraction of the steps whose op uses this head. The figures of a head that is "
                "rarely active rest on little data."
            ),
            range="0 to 1",
            priority="P2",
        ),
    ] = {}


#: Every per-head figure, in the order in which tables show them.
HEAD_FIGURES: Final = tuple(
    dataclasses.replace(description, field=name)
    for name, annotation in get_type_hints(HeadFigures, include_extras=True).items()
    for description in annotation.__metadata__
)
#: Figures whose history is kept, in the order of their charts.
CHARTED_FIGURES: Final = tuple(
    sorted(
        (figure for figure in HEAD_FIGURES if figure.chart_rank is not None),
        key=lambda figure: figure.chart_rank or 0,
    )
)
#: Every per-head figure, in the order of the reasons of a verdict.
JUDGED_FIGURES: Final = tuple(sorted(HEAD_FIGURES, key=lambda figure: figure.verdict_rank))
