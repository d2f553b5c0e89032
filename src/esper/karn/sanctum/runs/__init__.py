"""The screen Runs and its panels."""
