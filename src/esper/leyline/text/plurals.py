"""Numbers with their nouns: "1 run", "2 runs"."""


def plural(number: int, noun: str, plural_form: str = "") -> str:
    """Return the noun for a number of things.

    Args:
        number: how many.
        noun: the singular, such as "minibatch".
        plural_form: such as "minibatches"; the noun with an "s" by default.
    """
    return noun if number == 1 else plural_form or f"{noun}s"


def counted(number: int, noun: str, plural_form: str = "") -> str:
    """Return a number with its noun: "1 run", "2 runs"."""
    return f"{number} {plural(number, noun, plural_form)}"
