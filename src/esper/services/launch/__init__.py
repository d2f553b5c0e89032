"""Services that start and resume runs: they return values and raise, and print nothing.

Training and cockpit are two processes that share only the run's store. This package uses both, so
it imports PyTorch only when training begins.
"""
