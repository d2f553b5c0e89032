"""Checks of tensors: of one, of a minibatch, and of all weights once per update."""
