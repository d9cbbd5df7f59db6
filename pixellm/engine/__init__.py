"""The engine: images with questions in, answers with masks out, in true batches."""

from pixellm.engine.engine import Engine
from pixellm.engine.requests import Sample
from pixellm.engine.schedule import Limits

__all__ = ["Engine", "Limits", "Sample"]
