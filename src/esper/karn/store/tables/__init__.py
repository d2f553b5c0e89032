"""The tables of a run's store."""
