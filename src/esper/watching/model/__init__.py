"""What a watch knows of a model: its heads, its parameters, and the state of an update's start."""
