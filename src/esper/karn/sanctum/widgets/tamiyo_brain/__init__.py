"""The action heads: figures, lights and evidence."""
