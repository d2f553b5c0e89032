"""Copies of a run's figures in experiment trackers, written by a process of their own."""
