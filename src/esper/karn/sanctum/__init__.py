"""Sanctum: the terminal cockpit."""
