"""Records every operation of an update whose result is not finite."""
