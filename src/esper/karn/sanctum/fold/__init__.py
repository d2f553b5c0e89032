"""What the aggregator is made of: pure functions from events to plain data."""
