"""The screen Heads: evidence, history, incidents and their replay."""
