"""Records of the machine's load by training (TELE-115 to TELE-119)."""

from typing import Final

from esper.leyline.records.record import TelemetryRecord
from esper.leyline.records.run_records import run_record


def _machine(
    number: int,
    name: str,
    question: str,
    meaning: str,
    *,
    field: str,
    label: str,
    unit: str,
    type_: str = "int | None",
    source: str = "esper.karn.store.writing.machine_load:LoadMeter.read",
) -> TelemetryRecord:
    return run_record(
        number,
        name,
        question,
        meaning,
        payload=f"Heartbeat.{field}",
        handler="_handle_heartbeat",
        snapshot=field,
        holder="machine",
        label=label,
        source=source,
        emission="esper.karn.store.writing.store_connection:StoreConnection.beat",
        category="machine",
        type_=type_,
        unit=unit,
        range_="0 upwards",
        default="None",
        when="with every heartbeat, each 2 seconds",
    )


MACHINE_RECORDS: Final = (
    _machine(
        115,
        "Processor Load",
        "How much processor time does training use?",
        "Processor time of the training process and its workers since the previous heartbeat; "
        "100% is one core.",
        field="cpu_percent",
        label="CPU",
        unit="percent of one core",
        type_="float | None",
    ),
    _machine(
        116,
        "Memory",
        "How much memory does training use?",
        "Resident memory of the training process and its workers, added up; shared "
        "memory counts once for each.",
        field="memory_bytes",
        label="memory",
        unit="bytes",
    ),
    _machine(
        117,
        "GPU Load",
        "How busy is the GPU?",
        "Share of the last second in which the GPU was busy with any process, as the driver "
        "reports it. Not shown without a GPU.",
        field="gpu_percent",
        label="GPU",
        unit="percent of the time",
        type_="float | None",
        source="esper.simic.training.process.gpu_load:gpu_load",
    ),
    _machine(
        118,
        "GPU Memory",
        "How much GPU memory does training use?",
        "Memory that PyTorch has reserved in the training process, shown with TELE-119.",
        field="gpu_memory_bytes",
        label="GPU",
        unit="bytes",
        source="esper.simic.training.process.gpu_load:gpu_load",
    ),
    _machine(
        119,
        "Total GPU Memory",
        "How much memory does the GPU have?",
        "Total memory of the GPU that the training process uses.",
        field="gpu_total_bytes",
        label="GPU",
        unit="bytes",
        source="esper.simic.training.process.gpu_load:gpu_load",
    ),
)
