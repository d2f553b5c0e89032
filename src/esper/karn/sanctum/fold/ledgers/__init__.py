"""The ledgers of a run: each folds the events of one kind into plain data."""
