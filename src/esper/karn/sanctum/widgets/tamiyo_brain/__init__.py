"""Widgets that show the state of the policy."""
