"""Exports: the label table in the forms that other tools read."""
