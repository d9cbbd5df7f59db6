"""Parity of everything that is computed from an image alone."""

import torch
from torch import Tensor

from pixellm.checkpoints import Checkpoint
from pixellm.images import PreparedImage, prepare_image, resize_longest_side
from pixellm.vision import valid_pixels
from tests.parity_table import Fixture, Table

# The statistics as the reference document gives them, not as our code has them.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def prepare(fixture: Fixture, checkpoint: Checkpoint) -> list[PreparedImage]:
    """All images of a fixture."""
    side = checkpoint.model.config.image_side
    return [
        prepare_image(fixture.tensor(f"image{x}.raw_u8").numpy(), side)
        for x in range(fixture.images)
    ]


def check_images(fixture: Fixture, checkpoint: Checkpoint, table: Table) -> None:
    """Resizing, normalising and padding."""
    side = checkpoint.model.config.image_side
    images = prepare(fixture, checkpoint)
    for x, image in enumerate(images):
        raw = fixture.tensor(f"image{x}.raw_u8")
        resized = torch.from_numpy(resize_longest_side(raw.numpy(), side))
        table.exact("image, resized", f"image{x}.resized_u8", resized)
        expected = _padded(fixture.tensor(f"image{x}.resized_u8"), side)
        error = torch.full_like(expected, 1e-6)
        table.within("image, normalised", f"image{x} pixels", image.pixels, expected, error)
        table.close("image, normalised", f"image{x}.images_clip", image.pixels, optional=True)
    sizes = [list(image.resized) for image in images]
    table.equal("image, sizes", "clip_resize_list", sizes, fixture.meta("clip_resize_list"))
    sizes = [list(image.original) for image in images]
    table.equal("image, sizes", "original_size_list", sizes, fixture.meta("original_size_list"))


def _padded(resized: Tensor, side: int) -> Tensor:
    """(h, w, 3) uint8 -> (3, side, side), written from the reference document alone."""
    pixels = torch.zeros(3, side, side)
    height, width = resized.shape[:2]
    normalised = (resized.float() - torch.tensor(MEAN)) / torch.tensor(STD)
    pixels[:, :height, :width] = normalised.permute(2, 0, 1)
    return pixels


def check_vision(fixture: Fixture, checkpoint: Checkpoint, table: Table) -> None:
    """Position table, CLIP features, key mask and image tokens."""
    model, images = checkpoint.model, prepare(fixture, checkpoint)
    pixels, resized = torch.stack([i.pixels for i in images]), [i.resized for i in images]
    positions = model.vision.clip.embeddings.position_embedding.weight
    table.close("position table, resized", "clip_resized_position_embedding", positions)
    with torch.no_grad():
        valid = valid_pixels(resized, model.config.image_side)
        features = model.vision(pixels, valid)
        encoded = model.encode_images(pixels, resized)
    for name, feature in zip("AB", features, strict=False):
        table.close(f"CLIP features {name}", f"loss.clip_{name}", feature)
    table.exact("CLIP key mask", "loss.clip_mask", model.vision.key_mask(valid))
    table.close("image tokens of the LLM", "loss.llm_image_tokens", encoded.tokens)
