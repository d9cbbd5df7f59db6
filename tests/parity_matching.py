"""Parity of MUSE's matching: costs, assignments and areas, on the recorded masks."""

from torch import Tensor

from pixellm.checkpoints import Checkpoint
from tests.muse_reference import pair_masks, pairing_cost
from tests.parity_table import Fixture, Table

CASES = {
    "equal": lambda pred, target: (pred[[1, 0, *range(2, len(pred))]], target),
    "more_pred": lambda pred, target: (pred, target[:2]),
    "more_gt": lambda pred, target: (pred[:1], target),
}
"""Which of an image's predictions and truths are matched."""


def check_matching(fixture: Fixture, checkpoint: Checkpoint, table: Table) -> None:
    """As many predictions as truths, more of them, and fewer."""
    pred, target = fixture.tensor("loss.image0.pred_masks"), fixture.tensor("image0.gt_masks")
    points = fixture.tensor("muse.points")[0]
    for name, recorded in fixture.meta("muse").items():
        ours, truths = CASES[name](pred, target)
        table.close("matching costs", f"muse.{name}.cost", pairing_cost(ours, truths, points))
        _check_pairs(name, (ours, truths, points), recorded, table)


def _check_pairs(
    name: str, inputs: tuple[Tensor, Tensor, Tensor], recorded: dict[str, list], table: Table
) -> None:
    pairs = pair_masks(*inputs, official=True)
    matched = [p for p in pairs if p.prediction is not None and p.target is not None]
    pred_idx, gt_idx = [p.prediction for p in matched], [p.target for p in matched]
    table.equal("matching assignments", f"{name} pred_idx", pred_idx, recorded["pred_idx"])
    table.equal("matching assignments", f"{name} gt_idx", gt_idx, recorded["gt_idx"])
    for key in ("intersection", "union"):
        areas = [list(getattr(pair, key)) for pair in pairs]
        table.equal("matching areas (official)", f"{name} {key}", areas, recorded[key])
