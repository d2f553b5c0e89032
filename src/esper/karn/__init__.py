"""Karn: observability. Stores what a run said of itself and shows it; never imports torch."""
