"""A run with several ranks: the hosts, checkpoints and reports of all of them."""
