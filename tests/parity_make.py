"""Makes folders in the form of the reference fixtures, of any size, with our own code.

They can't show that our model is PixelLM. They show that the parity check reads every form that a
fixture may have, and that it notices when something changes.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from pixellm.checkpoints import (
    CLIP_PREFIX,
    POSITION_TABLE,
    Checkpoint,
    load_checkpoint,
    official_name,
    official_state,
)
from pixellm.engine.engine import Engine
from pixellm.engine.rows import Sample
from pixellm.images import resize_longest_side
from pixellm.losses import LossWeights, mask_losses
from pixellm.prompts import label_conversation, render_conversation
from pixellm.tiny import tiny_checkpoint
from pixellm.training import pad_conversations, training_losses
from tests.muse_reference import pair_masks
from tests.parity_answers import OFFICIAL, check_generation, check_teacher_forced
from tests.parity_images import check_vision, prepare
from tests.parity_loss import check_forward, check_gradients, loss_batch
from tests.parity_matching import CASES, check_matching
from tests.parity_table import Fixture, Table

SIZES = ((40, 56), (61, 33), (30, 30))
QUESTIONS = (("Which can fly?", "What is red?"), ("Is it left?",), ("the dog", "What is this?"))
TARGETS = ((2, 1), (0,), (1, 0))
"""Masks of every question: an image without any, and five rows."""
GRADIENTS = ("text_hidden_fcs.0.2.bias", "mask_decoder.level_embed", "lm_head_seg_rows")
THINNED = {"clip_A": (1, 4), "neck_out": (2, 2), "decoder_masks_l1": (2, 2)}
"""Ending of a name -> axis and step at which it is thinned out."""


class Recorder(Table):
    """Takes our values for the fixture instead of comparing them with it."""

    def __init__(self, fixture: Fixture, thinned: bool) -> None:
        super().__init__(fixture)
        self.thinned, self.taken = thinned, set()

    def _recorded(self, quantity: str, name: str, ours: Tensor, allowed: str, optional: bool):
        if name not in self.taken:
            self.taken.add(name)
            ending = name.rsplit(".", 1)[-1]
            axis, step = THINNED.get(ending, (0, 1)) if self.thinned else (0, 1)
            kept = torch.arange(0, ours.shape[axis], step)
            self.fixture.tensors[name] = ours.detach().index_select(axis, kept).clone()

    def within(self, quantity: str, name: str, ours: Tensor, theirs: Tensor, allowed: Tensor):
        if name in self.fixture.tensors:  # scores; not what is only in meta.json
            self.fixture.tensors[name] = ours.detach().clone()

    def equal(self, quantity: str, name: str, ours: object, theirs: object):
        pass


def make_fixture(folder: Path, seed: int, *, thinned: bool = False, **sizes: Any) -> Path:
    """Writes a folder whose model has the sizes given to `tiny_checkpoint`; see `THINNED`."""
    _write_model(folder, tiny_checkpoint(seed, **sizes))
    checkpoint = load_checkpoint(folder / "hf_model", folder / "clip")
    meta = _sizes(checkpoint)
    save_file(_inputs(checkpoint, seed), folder / "tensors.safetensors")
    (folder / "meta.json").write_text(json.dumps(meta))
    fixture = Fixture(folder)
    recorder = Recorder(fixture, thinned)
    check_vision(fixture, checkpoint, recorder)
    check_forward(fixture, checkpoint, recorder)
    meta |= _losses(fixture, checkpoint)
    meta |= {"evaluate": _evaluate(fixture, checkpoint), "muse": _matching(fixture)}
    fixture = Fixture.__new__(Fixture)  # the same tensors, the whole meta.json
    fixture.tensors, fixture._meta, fixture.seen = recorder.fixture.tensors, meta, set()
    recorder.fixture = fixture
    for check in (check_gradients, check_teacher_forced, check_generation, check_matching):
        check(fixture, checkpoint, recorder)
    save_file(fixture.tensors, folder / "tensors.safetensors")
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))
    return folder


def _write_model(folder: Path, checkpoint: Checkpoint) -> None:
    """The official form: two folders, the position table at the size that CLIP was trained at."""
    config, state = checkpoint.model.config, official_state(checkpoint.model)
    rows = (int(config.clip["image_size"]) // config.patch) ** 2 + 1
    table = torch.randn(rows, int(config.clip["hidden_size"]), generator=torch.manual_seed(0))
    state[POSITION_TABLE] = table
    keys = json.loads(config.to_json())
    clip = {key: value for key, value in state.items() if key.startswith(CLIP_PREFIX)}
    model = {key: value for key, value in state.items() if key not in clip}
    clip = {key.removeprefix(CLIP_PREFIX): value for key, value in clip.items()}
    for name, weights, values in (
        ("clip", clip, keys.pop("vision_config")),
        ("hf_model", model, keys),
    ):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(values))
        save_file(weights, folder / name / "model.safetensors")
    checkpoint.tokenizer.save(folder / "hf_model")


def _conversations(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Question and answer of every row."""
    target = f"it is {checkpoint.tokenizer.seg_text}"
    return [
        (question, ", ".join([target] * count) + "." if count else "There is nothing.")
        for questions, counts in zip(QUESTIONS, TARGETS, strict=True)
        for question, count in zip(questions, counts, strict=True)
    ]


def _inputs(checkpoint: Checkpoint, seed: int) -> dict[str, Tensor]:
    """Images, conversations and true masks."""
    rng, side = np.random.default_rng(seed), checkpoint.model.config.image_side
    rows = [
        label_conversation(checkpoint.tokenizer, *row, "") for row in _conversations(checkpoint)
    ]
    ids, labels, valid = pad_conversations(rows)
    tensors = {"loss.input_ids": ids, "loss.labels": labels, "loss.attention_masks": valid}
    tensors["loss.offset"] = torch.tensor([0, *np.cumsum([len(rows) for rows in QUESTIONS])])
    first = len(QUESTIONS[0])
    tensors |= {"tf.input_ids": ids[:first].clone(), "tf.attention_masks": valid[:first].clone()}
    tensors |= {"tf.pred_masks": torch.zeros(3, *SIZES[0]), "tf.mask_scores": torch.zeros(3)}
    tensors |= {f"loss.grad.{name}": torch.zeros(1) for name in GRADIENTS}
    tensors["muse.points"] = torch.from_numpy(rng.random((1, 256, 2), dtype=np.float32))
    for x, size in enumerate(SIZES):
        raw = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        tensors[f"image{x}.raw_u8"] = torch.from_numpy(raw)
        tensors[f"image{x}.resized_u8"] = torch.from_numpy(resize_longest_side(raw, side))
        for name in (f"image{x}.gt_masks", f"loss.image{x}.gt_masks"):
            masks = rng.integers(0, 2, (sum(TARGETS[x]), *size), dtype=np.uint8)
            tensors[name] = torch.from_numpy(masks)
    return tensors


def _sizes(checkpoint: Checkpoint) -> dict[str, Any]:
    """What meta.json says before anything ran."""
    config, state = checkpoint.model.config, official_state(checkpoint.model)
    side = config.image_side
    resized = [resize_longest_side(np.zeros((*size, 3), np.uint8), side).shape for size in SIZES]
    return {
        "state_dict_keys": {key: list(value.shape) for key, value in state.items()},
        "seg_token_ids": list(checkpoint.tokenizer.seg_ids),
        "seg_token_num": config.tokens_per_scale,
        "image_feature_scale_num": config.scales,
        "multiseg_scalar": [1 / config.group_size] * config.group_size,
        "multiscale_scalar": [1 / config.scales] * config.scales,
        "clip_resize_list": [list(shape[:2]) for shape in resized],
        "original_size_list": [list(size) for size in SIZES],
        "conversations": [render_conversation(*row, "") for row in _conversations(checkpoint)],
        "masks_per_question": [list(counts) for counts in TARGETS],
    }


def _losses(fixture: Fixture, checkpoint: Checkpoint) -> dict[str, Any]:
    """Losses, and the gradients' norms, which stay in the model."""
    model, batch = checkpoint.model, loss_batch(fixture, checkpoint)
    model.vision.requires_grad_(False)
    losses = training_losses(model, batch, LossWeights())
    losses.total.backward()
    masks = [fixture.tensors[f"loss.image{x}.pred_masks"] for x in range(len(SIZES))]
    pairs = list(zip(masks, batch.masks, TARGETS, strict=True))
    alone = LossWeights(refinement=1.0)
    refinements = [mask_losses([p], [t], [c], alone).refinement.item() for p, t, c in pairs]
    whole = mask_losses(masks, batch.masks, TARGETS, LossWeights(refinement=2.0)).refinement
    grads = {official_name(name): p.grad for name, p in model.named_parameters()}
    return {
        "losses": {
            "loss": losses.total.item(),
            "ce_loss": losses.ce.item(),
            "mask_bce_loss": losses.bce.item(),
            "mask_dice_loss": losses.dice.item(),
            "mask_loss": (losses.bce + losses.dice).item(),
            "overlap_loss_per_image_unweighted": refinements,
            "overlap_loss_combined_x_bce_weight": whole.item(),
        },
        "grad_norms": {k: g.norm().item() for k, g in grads.items() if g is not None},
        "no_grad_parameters": [key for key, g in grads.items() if g is None],
    }


def _evaluate(fixture: Fixture, checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Free answers; the tensors that generation is compared with get their place."""
    engine, config, entries = Engine(checkpoint, OFFICIAL), checkpoint.model.config, []
    for x, image in enumerate(prepare(fixture, checkpoint)):
        (answers,) = engine.answer([Sample(image, QUESTIONS[x])])
        for j, (question, answer) in enumerate(zip(QUESTIONS[x], answers, strict=True)):
            ids = [*engine.prompt_ids(question), *answer.token_ids]
            positions = len(ids) - 2 + config.image_tokens
            hidden = torch.zeros(positions, int(config.llama["hidden_size"]))
            fixture.tensors[f"gen{x}.q{j}.output_ids"] = torch.tensor(ids)
            fixture.tensors[f"gen{x}.q{j}.last_step_hidden"] = hidden
        counts = [len(answer.targets) for answer in answers]
        fixture.tensors[f"gen{x}.mask_scores"] = torch.zeros(sum(counts))
        entries.append(
            {
                "image": x,
                "questions": list(QUESTIONS[x]),
                "counts": counts,
                "new_tokens": [len(answer.token_ids) for answer in answers],
                "clip_resize": list(image.resized),
                "original_size": list(image.original),
            }
        )
    return entries


def _matching(fixture: Fixture) -> dict[str, Any]:
    """Assignments and areas of the recorded masks."""
    found = {}
    for name, choose in CASES.items():
        masks = fixture.tensors["loss.image0.pred_masks"], fixture.tensors["image0.gt_masks"]
        pairs = pair_masks(*choose(*masks), fixture.tensors["muse.points"][0], official=True)
        matched = [p for p in pairs if None not in (p.prediction, p.target)]
        found[name] = {
            "pred_idx": [p.prediction for p in matched],
            "gt_idx": [p.target for p in matched],
            "intersection": [list(p.intersection) for p in pairs],
            "union": [list(p.union) for p in pairs],
        }
    return found
