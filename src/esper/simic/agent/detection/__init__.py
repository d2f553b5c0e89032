"""Finding what was not finite in an update, and what caused it."""
