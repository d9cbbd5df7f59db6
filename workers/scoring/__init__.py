"""Scoring: one label table held against another, the gold one."""
