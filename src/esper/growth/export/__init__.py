"""Writing a grown network as source code and weights."""
