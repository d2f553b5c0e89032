"""Repeats a minibatch with everything put back afterwards."""
