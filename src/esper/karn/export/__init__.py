"""Export of runs as tables: Parquet, CSV, JSON Lines, TensorBoard files and data frames."""
