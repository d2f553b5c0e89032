"""Where tasks come from: one module for each source of data."""
