"""Training tasks: loading, checking, splitting and standardising of data."""
