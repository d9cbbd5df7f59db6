"""Piloting: a random part of a run is labelled, and says what the whole will take."""
