"""Rows in columns, and pieces put together into lines."""

from rich.text import Text

from esper.karn.text.columns import columns, fitted, flowed


def test_columns_are_as_wide_as_their_widest_cell_in_terminal_cells():
    rows = [["head", Text("seen"), ""], ["頭", Text("NaN in logits", style="red"), "now"]]
    assert [line.plain for line in columns(rows)] == [
        "head  seen",
        "頭    NaN in logits  now",
    ]


def test_the_parts_that_fit_are_kept_whole():
    parts = [Text("much too long for it"), Text("b"), Text()]
    assert fitted(Text("a"), parts, 6).plain == "a  b"
    assert fitted(Text("a"), parts, None, " · ").plain == "a · much too long for it · b"


def test_entries_flow_onto_further_lines():
    entries = [Text("one"), Text("two"), Text("three")]
    assert [line.plain for line in flowed(entries, 8)] == ["one  two", "three"]
