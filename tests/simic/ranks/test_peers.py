"""Connections between ranks: what each learns of the others, and how soon."""

import re
import time
from collections.abc import Iterator

import pytest
from waiting import wait_until

from esper.simic.ranks import peers as module
from esper.simic.ranks.peers import Hub, RankName, Spoke


class Heard:
    """A listener that keeps what it receives."""

    def __init__(self) -> None:
        self.received: list[str] = []

    def stop(self) -> None:
        self.received.append("stop")

    def write_checkpoint(self) -> None:
        self.received.append("checkpoint")

    def lost(self, sentence: str) -> None:
        self.received.append(sentence)

    def overdue(self, sentence: str) -> None:
        self.received.append(f"overdue: {sentence}")


class Three:
    """Three ranks in one process."""

    def __init__(self) -> None:
        self.heard = [Heard() for _ in range(3)]
        names = [RankName(rank, 100 + rank, f"node{rank}") for rank in range(3)]
        self.hub = Hub(names[0], 3, self.heard[0])
        self.spokes = [
            Spoke(
                names[rank], names[0], "127.0.0.1", self.hub.port, self.hub.token, self.heard[rank]
            )
            for rank in (1, 2)
        ]
        wait_until(lambda: len(self.hub._known) == 2, "both are known")

    def all_heard(self, expected: list[list[str]]) -> None:
        wait_until(lambda: [one.received for one in self.heard] == expected, f"{expected}")


@pytest.fixture
def three() -> Iterator[Three]:
    """Three connected ranks."""
    ranks = Three()
    yield ranks
    for one in (*ranks.spokes, ranks.hub):
        one.close()


def test_a_rank_that_ends_without_a_word_is_named_to_all_others(three: Three) -> None:
    three.spokes[0]._hub.end.shutdown(2)  # as the system does when its process is killed
    sentence = "rank 1 (process 101 on node1) was killed or crashed"
    wait_until(lambda: three.heard[2].received, "rank 2 knows")
    assert three.heard[0].received == three.heard[2].received == [sentence]


def test_the_end_of_rank_0_is_named_to_all_others(three: Three) -> None:
    three.hub._last_words = {}  # it says nothing, and its connections are closed
    wait_until(lambda: three.heard[1].received and three.heard[2].received, "both know")
    sentence = "rank 0 (process 100 on node0) was killed or crashed"
    assert three.heard[1].received == three.heard[2].received == [sentence]


def test_a_request_to_stop_reaches_all_others_once(three: Three) -> None:
    three.spokes[1].ask_to_stop()
    three.all_heard([["stop"], ["stop"], []])
    three.hub.ask_to_stop()  # as each does that was stopped
    three.spokes[0].ask_to_stop()
    three.spokes[1].close()
    time.sleep(3 * module._TURN_SECONDS)
    assert [one.received for one in three.heard] == [["stop"], ["stop"], []]


def test_a_request_for_a_checkpoint_reaches_rank_0(three: Three) -> None:
    three.spokes[0].ask_for_checkpoint()
    three.all_heard([["checkpoint"], [], []])


def test_a_rank_that_fails_says_why(three: Three) -> None:
    three.spokes[0].close("ValueError: the host melted")
    failed = "rank 1 (process 101 on node1) failed: ValueError: the host melted"
    three.all_heard([[failed], [], [failed]])


def test_an_ordinary_end_is_no_loss(three: Three) -> None:
    for one in (*three.spokes, three.hub):
        one.close()
    assert [one.received for one in three.heard] == [[], [], []]


def test_silence_counts_as_a_loss(three: Three, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.0)
    wait_until(lambda: all(one.received for one in three.heard), "each has found another silent")
    # Which of them is found first is open: all of them are silent.
    assert all(re.match(r"rank \d \(.*\) was silent for", one.received[0]) for one in three.heard)


def test_a_process_that_does_not_end_is_reported(
    three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.0)
    three.hub.ask_to_stop()
    wait_until(
        lambda: "overdue: it was asked to stop" in three.heard[1].received, "rank 1 is overdue"
    )


def test_a_stranger_is_not_heard(three: Three) -> None:
    stranger = Heard()
    name = RankName(1, 1, "elsewhere")
    spoke = Spoke(name, name, "127.0.0.1", three.hub.port, "wrong", stranger)
    spoke.ask_to_stop()
    wait_until(lambda: stranger.received, "it was cut off")
    spoke.close()
    assert [one.received for one in three.heard] == [[], [], []]
