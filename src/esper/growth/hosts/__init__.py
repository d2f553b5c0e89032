"""Networks that grow: their seeds and slots, and training many in lockstep."""
