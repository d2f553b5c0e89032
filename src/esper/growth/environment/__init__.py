"""The hosts as a Gymnasium environment, in one process or several."""
