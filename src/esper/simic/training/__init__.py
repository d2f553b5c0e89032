"""Training runs: collecting, checkpoints, progress, stopping."""
