"""Watching: what people drop under a prefix is found, labelled by the line, and told about."""
