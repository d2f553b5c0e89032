"""The store of a run: writing, reading, damage, liveness, and the files beside it."""
