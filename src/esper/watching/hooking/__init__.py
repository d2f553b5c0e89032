"""Hooks into torch while a watch is open."""
