"""Hand-written layers of many networks at once, with their gradients."""
