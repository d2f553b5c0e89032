"""Widgets whose place is fixed by their telemetry records."""
