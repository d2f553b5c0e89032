"""Run names without their creation time."""

from esper.karn.text.run_names import shortened, without_creation_time


def test_the_creation_time_is_dropped():
    assert without_creation_time("20251122-194012-ppo-a") == "ppo-a"
    assert without_creation_time("20251122-194012") == "20251122-194012"
    assert without_creation_time("mine") == "mine"


def test_names_stay_distinct():
    assert shortened(["20251122-194012-a", "20251123-194012-b"]) == ["a", "b"]
    assert shortened(["20251122-194012-a", "20251122-194013-a"]) == ["194012-a", "194013-a"]
    assert shortened(["a", "a"]) == ["a", "a"]
