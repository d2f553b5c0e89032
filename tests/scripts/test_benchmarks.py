"""What the benchmarks ask for and print, not what they measure."""

import host_throughput
import pytest
import update_overhead


@pytest.mark.parametrize("rounds", ["1", "0", "-3", "few"])
def test_one_round_is_too_few_for_an_interval(
    rounds: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["update_overhead.py", f"--rounds={rounds}"])
    with pytest.raises(SystemExit) as ended:
        update_overhead.main()
    assert ended.value.code == 2
    assert f"must be a whole number of at least 2, for an interval, not {rounds}" in (
        capsys.readouterr().err
    )


def test_the_comparison_with_another_library_takes_the_same_rounds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sb3_contrib")
    import ppo_update

    monkeypatch.setattr("sys.argv", ["ppo_update.py", "--rounds", "1", "--sizes", "small"])
    with pytest.raises(SystemExit) as ended:
        ppo_update.main()
    assert ended.value.code == 2
    assert "at least 2" in capsys.readouterr().err


def test_a_table_in_a_pipe_is_not_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = [10.0, 100.0]
    monkeypatch.setattr(host_throughput, "measure", lambda *_: measured)
    monkeypatch.setattr("sys.argv", ["host_throughput.py", "--hosts", "256", "--processes", "1"])
    host_throughput.main()
    table = capsys.readouterr().out
    assert "…" not in table
    for heading in ("lockstep samples", "loop samples", "env steps", "ms/host", "loop ms/host"):
        assert heading in table
    assert "64 of 256" in table
