"""PixelLM: a language model that answers with pixel masks (arXiv 2312.02228)."""
