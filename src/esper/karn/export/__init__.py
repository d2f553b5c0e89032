"""Tables of runs in the forms that other programs read: Parquet, CSV, JSON lines, TensorBoard."""
