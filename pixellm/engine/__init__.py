"""The engine: images with questions in, answers with masks out, in true batches."""
