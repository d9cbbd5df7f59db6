"""Training: rows of label tables become batches that a model learns from."""
