"""Records of the hosts that are trained (TELE-4xx)."""

from typing import Final

from esper.leyline.records.record import TelemetryRecord, Thresholds, Wiring

_ENV: Final = "esper.growth.env:GrowthVectorEnv.step"


def _host(
    number: int,
    name: str,
    field: str,
    snapshot: str,
    label: str,
    question: str,
    meaning: str,
    *,
    type_: str = "float",
    range_: str,
    unit: str = "–",
    default: str = "no host is shown",
    causes: tuple[str, ...] = (),
    priority: str = "P1",
) -> TelemetryRecord:
    return TelemetryRecord(
        id=f"TELE-{number}",
        name=name,
        category="host",
        priority=priority,
        question=question,
        audience=("operator", "researcher"),
        when="after every step",
        type=type_,
        unit=unit,
        range=range_,
        default=default,
        meaning=meaning,
        causes=causes,
        thresholds=Thresholds(),
        wiring=Wiring(
            source=_ENV,
            emission="esper.simic.telemetry.emitters:emit_step",
            payload=f"StepCompleted.{field}",
            aggregation="esper.karn.sanctum.aggregator:SanctumAggregator._handle_step_completed",
            snapshot=f"hosts[…].{snapshot}",
            widget="esper.karn.sanctum.widgets.hosts_panel:HostsPanel",
            label=label,
        ),
    )


HOST_RECORDS: Final = (
    _host(
        401,
        "Host Accuracy",
        "accuracy",
        "accuracy",
        "accuracy",
        "How well does each network do now?",
        "Accuracy on the validation split, which the agent sees, with its curve over this episode.",
        range_="0 to 1",
        unit="share of samples, shown in percent",
        priority="P0",
    ),
    _host(
        402,
        "Host Loss",
        "loss",
        "loss",
        "loss",
        "How surely does each network do it?",
        "Cross-entropy on the validation split.",
        range_="0 upwards",
        unit="nat",
        causes=("a seed that was blended in before it was trained",),
    ),
    _host(
        403,
        "Network Parameters",
        "parameters",
        "parameters",
        "params",
        "How large has each network grown?",
        "Parameters of the host and of the seeds in it.",
        type_="int",
        range_="TELE-113 upwards",
        unit="parameters",
    ),
    _host(
        404,
        "Reward",
        "reward",
        "reward",
        "reward",
        "What did the agent get for the last step?",
        "Sum of the reward's terms for the last step of each host.",
        range_="any",
    ),
    _host(
        405,
        "Seed Stage",
        "stages",
        "slots[…].stage",
        "",
        "Where in its life is the seed in each slot?",
        "One sign for each stage; the legend names them.",
        type_="int",
        range_="0 to 7: DORMANT, GERMINATED, TRAINING, BLENDING, HOLDING, FOSSILIZED, PRUNED, "
        "EMBARGOED",
    ),
    _host(
        406,
        "Seed Alpha",
        "alphas",
        "slots[…].alpha",
        "",
        "How much of each seed's output reaches its host?",
        "The share at which the seed is blended in, as a block that fills up.",
        range_="0 to 1",
    ),
    _host(
        407,
        "Seed Blueprint",
        "blueprints",
        "slots[…].blueprint",
        "",
        "What kind of module is the seed in each slot?",
        "Index into the run's blueprints, shown by name where there is room; -1 in an empty slot.",
        type_="int",
        range_="-1 upwards",
        priority="P2",
    ),
)
