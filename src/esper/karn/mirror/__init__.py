"""Copying of a run's figures to experiment trackers, in a separate process."""
