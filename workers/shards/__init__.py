"""Shards: what lies under an input, cut into units of work."""
