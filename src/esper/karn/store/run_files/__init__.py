"""The files beside a run's store."""
