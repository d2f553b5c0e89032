"""Services of commands and the public API: they return values and raise, and print nothing."""
