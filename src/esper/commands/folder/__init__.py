"""Commands for a whole folder of runs."""
