"""The base class of all exceptions that Esper defines."""


class EsperError(Exception):
    """An error that the caller can correct; the message says what was wrong and what is right.

    Commands print the message without a traceback and exit with code 2. Most subclasses are also a
    `ValueError` or a `RuntimeError`, so that code that does not know Esper can handle them.
    """
