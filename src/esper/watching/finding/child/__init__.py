"""Repeats minibatches in a forked child process."""
