"""The detection campaign: random faults and clean updates, with the truth known."""
