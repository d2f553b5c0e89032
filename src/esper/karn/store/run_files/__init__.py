"""The files next to a run's store."""
