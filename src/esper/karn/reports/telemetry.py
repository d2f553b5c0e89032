"""The report of `esper telemetry`: the telemetry records."""

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from esper.karn.reports.printing import named_rows, print_columns
from esper.karn.reports.telemetry_docs import facts, proofs, wiring
from esper.karn.text.plain_console import PlainConsole
from esper.leyline.records import RECORDS, find_record


def print_telemetry(reference: str | None = None, *, console: Console | None = None) -> int:
    """Print the list of telemetry records, or one record with its wiring; return 0.

    Raises:
        UnknownRecordError: there is no record of that id.
    """
    console = console or PlainConsole()
    if reference is None:
        rows = [[Text(one.id), Text(one.name), Text(one.question)] for one in RECORDS]
        print_columns(console, rows, ("id", "name", "question"))
        return 0
    record = find_record(reference)
    console.print(Text(f"{record.id}  {record.name}", style="bold"))
    console.print(Text(record.question, style="italic"), "", Text(record.meaning), "", sep="\n")
    print_columns(console, named_rows(facts(record)))
    if record.causes:
        console.print(Text("\nusual causes", style="bold"))
        for cause in record.causes:
            console.print(Padding(Text(cause), (0, 0, 0, 2), expand=False))
    console.print(Text("\nwiring", style="bold"))
    print_columns(console, named_rows(wiring(record)))
    console.print(Text("\nproven by", style="bold"))
    print_columns(console, [[Text(f"  {test}")] for test in proofs(record)])
    return 0
