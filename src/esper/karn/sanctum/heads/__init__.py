"""The screen Heads and its panels: evidence, history, incidents and their replay."""
