"""Objects in folders and buckets, behind one small interface."""
