"""Writing a run's store."""
