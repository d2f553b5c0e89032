"""Reading a run's store."""
