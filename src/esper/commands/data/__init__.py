"""Commands that give the data of runs to other programs."""
