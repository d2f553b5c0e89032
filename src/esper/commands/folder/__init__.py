"""Commands on a whole folder of runs."""
