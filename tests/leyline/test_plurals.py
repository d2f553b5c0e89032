"""Numbers with their nouns."""

from esper.leyline.text.plurals import counted


def test_only_one_is_singular():
    assert [counted(number, "run") for number in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert counted(2, "minibatch", "minibatches") == "2 minibatches"
