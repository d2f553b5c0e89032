"""Letting a policy grow a network, with its card and picture."""
