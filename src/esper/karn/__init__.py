"""Karn: observability. Stores the events of a run and shows them; never imports torch."""
