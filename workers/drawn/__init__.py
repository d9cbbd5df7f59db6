"""The small model of the drawn world: its training in stages, and the paper's studies on it."""
