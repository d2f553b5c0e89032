"""`docs/telemetry/` is made from the records, and is not to be stale."""

from pathlib import Path

from esper.karn.telemetry_docs import telemetry_pages
from esper.leyline.records import RECORDS

DOCS = Path(__file__).parents[2] / "docs" / "telemetry"


def test_the_pages_in_the_repository_are_those_of_the_records():
    written = {path.name: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")}

    assert written == telemetry_pages(), "run: uv run esper telemetry --write-docs docs/telemetry"


def test_the_index_links_every_page():
    index = telemetry_pages()["README.md"]

    for record in RECORDS:
        assert f"[{record.id}]({record.id}.md)" in index
        assert record.question in index
