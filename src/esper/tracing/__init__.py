"""Finds the operation in which a non-finite value began, by tracing every operation."""
