"""Faults as they occur in nature, each with the operation and line that a replay must name."""
