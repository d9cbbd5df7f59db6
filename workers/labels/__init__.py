"""Labels: rows, the Parquet table, and the commits that make its parts count."""
