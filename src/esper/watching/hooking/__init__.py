"""Hooks into torch while a watch is open, and what they catch."""
