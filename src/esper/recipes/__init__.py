"""Recipes: where other libraries keep model, optimizer and action space, and how they update."""
