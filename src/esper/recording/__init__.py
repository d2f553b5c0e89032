"""Records watched training runs: events into a store, incidents into capsules."""
