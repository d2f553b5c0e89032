"""Distributed training of one run by several processes (ranks), as started by torchrun."""
