"""The labelling line around PixelLM: from images in a bucket to committed rows."""
