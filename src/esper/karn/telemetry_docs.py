"""The pages of `docs/telemetry/`, made from the telemetry records."""

from pathlib import Path
from typing import Final

from esper.leyline.durable_files import write_output
from esper.leyline.records import RECORDS, TelemetryRecord

INDEX_NAME: Final = "README.md"
_SECTIONS: Final = {
    "1": "The run and its monitor",
    "2": "The PPO update",
    "3": "The action heads",
    "4": "The hosts",
    "5": "Decisions",
}
_GENERATED: Final = (
    "<!-- Made from esper.leyline.records by `esper telemetry --write-docs docs/telemetry`. -->"
)


def telemetry_pages() -> dict[str, str]:
    """Return every page by its file name: the index, and one page for each record."""
    pages = {INDEX_NAME: _index()}
    pages.update({f"{record.id}.md": _page(record) for record in RECORDS})
    return pages


def write_pages(directory: Path) -> list[Path]:
    """Write all pages into a directory, which is made if need be; remove those of former records.

    Returns:
        The pages written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    pages = telemetry_pages()
    for stale in directory.glob("TELE-*.md"):
        if stale.name not in pages:
            stale.unlink()
    paths = []
    for name, text in pages.items():
        path = directory / name
        write_output(path, text)
        paths.append(path)
    return paths


def facts(record: TelemetryRecord) -> list[tuple[str, str]]:
    """Return what a record says of its values, as names and texts, without what does not apply."""
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
    """Return the stations of a field, from where it is born to where it is seen."""
    way = record.wiring
    return [
        ("measured", way.source),
        ("emitted", way.emission),
        ("carried", way.payload or "console.log, beside the store"),
        ("folded", way.aggregation),
        ("held", f"{way.holder}.{way.snapshot}"),
        ("shown", f"{way.widget}, {way.label!r}" if way.label else way.widget),
    ]


def _index() -> str:
    lines = [_GENERATED, "", "# Telemetry records", ""]
    lines += [
        "Each field that Sanctum shows has a record: what it answers, what its values mean, when",
        "they are unhealthy, and its way from where it is measured to the screen. A field exists",
        "only with its record, and one test runs over all of them to prove that way.",
        "",
    ]
    for digit, title in _SECTIONS.items():
        lines += [f"## {title}", "", "| id | name | question |", "|---|---|---|"]
        lines += [
            f"| [{record.id}]({record.id}.md) | {record.name} | {_cell(record.question)} |"
            for record in RECORDS
            if record.id.startswith(f"TELE-{digit}")
        ]
        lines.append("")
    return "\n".join(lines)


def _page(record: TelemetryRecord) -> str:
    lines = [_GENERATED, "", f"# {record.id}: {record.name}", ""]
    lines += [f"*{record.question}*", "", record.meaning, "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(text)} |" for name, text in facts(record)]
    if record.causes:
        lines += ["", "## Usual causes of an unhealthy value", ""]
        lines += [f"- {cause}" for cause in record.causes]
    lines += ["", "## Wiring", "", "| | |", "|---|---|"]
    lines += [f"| {name} | `{place}` |" for name, place in wiring(record)]
    lines += ["", "## Proven by", ""]
    lines += [f"- `{test}`" for test in proofs(record)]
    return "\n".join([*lines, ""])


def proofs(record: TelemetryRecord) -> tuple[str, ...]:
    """Return the tests that prove a record."""
    every = f"tests/integration/test_telemetry_wiring.py (parameter {record.id})"
    return (every, *record.proven_by)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
