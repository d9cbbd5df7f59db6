"""PixelLM: a language model that answers with pixel masks (arXiv 2312.02228).

What one needs to use it as a library can be imported from here:

    import numpy as np
    from PIL import Image
    from pixellm import Engine, Sample, clean_instruction, load_checkpoint, prepare_image

    checkpoint = load_checkpoint("model")  # a folder; pixellm/shipped/drawn is one
    engine = Engine(checkpoint)
    photo = np.asarray(Image.open("photo.png").convert("RGB"))
    image = prepare_image(photo, checkpoint.model.config.image_side)
    ((answer,),) = engine.answer([Sample(image, (clean_instruction("the striped things"),))])
    for target in answer.targets:
        print(target.phrase, target.mask.sum(), "pixels")

Names are looked up when they are asked for: `import pixellm` by itself imports no torch. Inside
this project names are imported from the module that defines them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pixellm.answers import Answer, DecodeSettings, Target
    from pixellm.checkpoints import Checkpoint, load_checkpoint
    from pixellm.engine.engine import Engine
    from pixellm.engine.rows import Sample
    from pixellm.errors import PixelLMError
    from pixellm.images import PreparedImage, prepare_image
    from pixellm.prompts import clean_instruction

__all__ = [
    "Answer",
    "Checkpoint",
    "DecodeSettings",
    "Engine",
    "PixelLMError",
    "PreparedImage",
    "Sample",
    "Target",
    "clean_instruction",
    "load_checkpoint",
    "prepare_image",
]

_MODULES = {
    "Answer": "answers",
    "Checkpoint": "checkpoints",
    "DecodeSettings": "answers",
    "Engine": "engine.engine",
    "PixelLMError": "errors",
    "PreparedImage": "images",
    "Sample": "engine.rows",
    "Target": "answers",
    "clean_instruction": "prompts",
    "load_checkpoint": "checkpoints",
    "prepare_image": "images",
}
"""Name -> the module that defines it."""


def __getattr__(name: str) -> object:
    """Imports what is asked for (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'pixellm' has no attribute {name!r}")
    return getattr(import_module(f"pixellm.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """What can be imported from here."""
    return sorted({*globals(), *__all__})
