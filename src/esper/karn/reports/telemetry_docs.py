"""The documentation page of the telemetry records, made from the records."""

from typing import Final

from esper.leyline.records import RECORDS, TelemetryRecord

_SECTIONS: Final = {
    "1": "The run and its monitor",
    "2": "The PPO update",
    "3": "The action heads",
    "4": "The hosts",
    "5": "Decisions",
    "6": "Watched runs",
}
_INTRODUCTION: Final = """# Telemetry records

Each field that Sanctum shows has a record: the question it answers, the meaning of its values, when
they are unhealthy, and its path from where it is measured to the screen. One test runs over all
records and proves that path.
"""


def telemetry_page() -> str:
    """Return the page in MyST Markdown: a table for each section, then every record.

    Each record has its own anchor, for example `tele-303`.
    """
    parts = [_INTRODUCTION]
    for digit, title in _SECTIONS.items():
        records = [record for record in RECORDS if record.id.startswith(f"TELE-{digit}")]
        rows = [
            f"| [{record.id}](#{_anchor(record)}) | {record.name} | {_cell(record.question)} |"
            for record in records
        ]
        head = [f"## {title}", "", "| id | name | question |", "|---|---|---|"]
        parts += ["\n".join([*head, *rows, ""]), *map(_section, records)]
    return "\n".join(parts)


def _section(record: TelemetryRecord) -> str:
    lines = [f"({_anchor(record)})=", "", f"### {record.id}: {record.name}", ""]
    lines += [f"*{record.question}*", "", record.meaning, "", "| field | value |", "|---|---|"]
    lines += [f"| {name} | {_cell(text)} |" for name, text in facts(record)]
    lines += [f"| {name} | `{place}` |" for name, place in wiring(record)]
    if record.causes:
        lines += ["", "Usual causes of an unhealthy value:", ""]
        lines += [f"- {cause}" for cause in record.causes]
    lines += ["", "Proven by:", ""]
    lines += [f"- `{test}`" for test in proofs(record)]
    return "\n".join([*lines, ""])


def _anchor(record: TelemetryRecord) -> str:
    return record.id.lower()


def facts(record: TelemetryRecord) -> list[tuple[str, str]]:
    """Return the facts of a record as names and texts, without those that do not apply."""
    rows = [
        ("category", record.category),
        ("priority", record.priority),
        ("for", ", ".join(record.audience)),
        ("changes", record.when),
        ("type", record.type),
        ("keys", record.keys),
        ("unit", record.unit),
        ("range", record.range),
        ("default", record.default),
        ("healthy", record.thresholds.healthy),
        ("warning", record.thresholds.warning),
        ("critical", record.thresholds.critical),
        ("companions", ", ".join(record.companions)),
    ]
    return [(name, text) for name, text in rows if text and text != "–"]


def wiring(record: TelemetryRecord) -> list[tuple[str, str]]:
    """Return the path of a field from its source to the screen, as names and places."""
    path = record.wiring
    return [
        ("measured", path.source),
        ("emitted", path.emission),
        ("carried", path.payload or "console.log, next to the store"),
        ("folded", path.aggregation),
        ("held", f"{path.holder}.{path.snapshot}"),
        ("shown", f"{path.widget}, {path.label!r}" if path.label else path.widget),
    ]


def proofs(record: TelemetryRecord) -> tuple[str, ...]:
    """Return the tests that prove a record."""
    every = f"tests/integration/test_telemetry_wiring.py (parameter {record.id})"
    return (every, *record.proven_by)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
