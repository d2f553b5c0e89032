"""Commands that make the data of runs available to other programs."""
