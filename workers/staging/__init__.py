"""Folders of buckets on this machine: fetched once, checked, shared, and removed for room."""
