"""Records: images with their instructions, read from every form of input."""
