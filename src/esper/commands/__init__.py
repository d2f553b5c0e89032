"""The commands `esper` and `sanctum`, one module each: its options, and what it starts."""
