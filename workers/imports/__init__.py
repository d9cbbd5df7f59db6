"""Imports: labels that people made, in the forms of other tools -> the label table."""
