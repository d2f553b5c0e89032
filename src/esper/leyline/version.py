"""The version of Esper; `esper.__version__` for users."""

VERSION = "0.2.0"
