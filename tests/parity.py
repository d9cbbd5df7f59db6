"""Compares our PixelLM with what the official code recorded.

    python -m tests.parity tests/fixtures/pixellm-a

Prints a table and ends with 0 when every quantity holds, 1 when one doesn't, 2 when the folder is
no fixture. A fixture folder holds hf_model/, clip/, tensors.safetensors and meta.json.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from pixellm.checkpoints import Checkpoint, load_checkpoint, match_weights
from pixellm.masks import combine_scales
from tests.parity_answers import check_broken_groups, check_generation, check_teacher_forced
from tests.parity_images import check_images, check_vision
from tests.parity_loss import (
    check_conversations,
    check_forward,
    check_gradients,
    check_losses,
)
from tests.parity_matching import check_matching
from tests.parity_table import Fixture, Table

NOT_NEEDED = {
    r"spec|torch|transformers": "how the fixture was made",
    r"official_counts_expression": "a remark on quirk Q5",
    r"image\d+\.gt_masks": "what the fixture's model was trained on",
    r"evaluate\.texts": "the ids are compared",
    r"evaluate\.seconds": "a time",
}


def check_constants(fixture: Fixture, checkpoint: Checkpoint, table: Table) -> None:
    """Sizes and fixed factors, and the name and shape of every weight."""
    config = checkpoint.model.config
    sizes = {
        "seg_token_ids": list(checkpoint.tokenizer.seg_ids),
        "seg_token_num": config.tokens_per_scale,
        "image_feature_scale_num": config.scales,
    }
    for key, ours in sizes.items():
        table.equal("sizes", key, ours, fixture.meta(key))
    match_weights(checkpoint.model, [ListedWeights(fixture)])  # raises, and names what differs
    table.equal("weight names and shapes", "state_dict_keys", True, True)
    shares = torch.tensor(fixture.meta("multiseg_scalar"))
    if config.tokens_per_scale > 1:  # a lone token isn't scaled
        ours = checkpoint.model.codebook.fuse(torch.eye(config.group_size)).sum(1)[0]
        table.within("constants", "multiseg_scalar", ours, shares, torch.tensor(1e-7))
    weights = torch.tensor(fixture.meta("multiscale_scalar"))
    planes = torch.eye(config.scales)[:, None, None, :, None]  # S planes (1, 1, S, 1), each one row
    ours = combine_scales(list(planes), config.scales)[0, :, 0]
    table.within("constants", "multiscale_scalar", ours, weights, torch.tensor(1e-7))


CHECKS = (
    check_constants,
    check_images,
    check_vision,
    check_conversations,
    check_forward,
    check_losses,
    check_gradients,
    check_teacher_forced,
    check_generation,
    check_broken_groups,
    check_matching,
)


class ListedWeights:
    """The names and shapes of meta.json's state_dict_keys as if they were a weight file."""

    def __init__(self, fixture: Fixture) -> None:
        self.folder = fixture.folder
        self._shapes: dict[str, list[int]] = fixture.meta("state_dict_keys")

    def keys(self) -> set[str]:
        return set(self._shapes)

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._shapes[key])

    def get(self, key: str) -> torch.Tensor:
        return torch.empty(self._shapes[key], device="meta")


def run(folder: Path) -> Table:
    """All comparisons of a fixture folder."""
    fixture = Fixture(folder)
    table = Table(fixture)
    checkpoint = load_checkpoint(folder / "hf_model", folder / "clip")
    for check in CHECKS:
        try:
            check(fixture, checkpoint, table)
        except Exception as error:  # the other quantities are still worth knowing
            table.crashed(check.__name__, error)
    return table


def main(arguments: Sequence[str]) -> int:
    """Prints the table of a folder."""
    if len(arguments) != 1 or not (Path(arguments[0]) / "meta.json").is_file():
        print(__doc__, file=sys.stderr)
        return 2
    table = run(Path(arguments[0]))
    print(table.render(NOT_NEEDED))
    print("all quantities hold" if table.ok else "SOME QUANTITIES DO NOT HOLD")
    return 0 if table.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
