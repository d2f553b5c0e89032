"""The training process itself: signals, outputs, threads and GPU."""
