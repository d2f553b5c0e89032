"""The option that benchmarks share, and the console that their tables go to."""

import argparse

import pytest
from benchmark_output import PIPED_WIDTH, make_console, rounds_of
from rich.table import Table


@pytest.mark.parametrize("rounds", ["1", "0", "-3", "few"])
def test_one_round_is_too_few_for_an_interval(rounds: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="at least 2, for an interval, not"):
        rounds_of(rounds)
    assert rounds_of("2") == 2


def test_a_table_in_a_pipe_is_not_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = Table("x" * (PIPED_WIDTH - 4))
    make_console().print(table)
    assert "x" * (PIPED_WIDTH - 4) in capsys.readouterr().out
