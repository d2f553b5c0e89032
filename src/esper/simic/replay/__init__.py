"""Incidents: capsules, and repeating them under a tracer."""
