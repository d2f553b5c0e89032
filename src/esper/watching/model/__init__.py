"""A watched model: its heads, its parameters, and its state at the start of an update."""
