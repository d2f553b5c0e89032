"""The detection campaign: random faults beside clean updates, with the truth known."""
