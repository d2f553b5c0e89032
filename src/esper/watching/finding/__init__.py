"""Finds out what broke in a minibatch, and at which operation."""
