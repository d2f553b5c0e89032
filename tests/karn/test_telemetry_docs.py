"""The documentation page of the telemetry records."""

from esper.karn.reports.telemetry_docs import telemetry_page
from esper.leyline.records import RECORDS


def test_the_page_has_every_record_with_an_anchor_and_a_link_to_it():
    page = telemetry_page()

    for record in RECORDS:
        anchor = record.id.lower()
        assert f"| [{record.id}](#{anchor}) |" in page
        assert f"({anchor})=\n\n### {record.id}: {record.name}\n" in page
        assert record.question in page
