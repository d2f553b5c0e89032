"""Callbacks that watch the training of other libraries; each needs its own library."""
