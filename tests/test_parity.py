import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pixellm.codebook import Codebook
from pixellm.masks import postprocess_masks
from pixellm.prompts import render_prompt
from pixellm.vision import VisionTower
from tests.parity import main
from tests.parity_make import make_fixture

OFFICIAL = Path(__file__).parent / "fixtures" / "pixellm-a"
ENLARGED = {"image_side": 56, "clip_side": 28, "llm_grid": 8, "mask_side": 64}
"""The language model's image tokens are finer than the patches."""
QUANTITIES = (
    "position table, resized", "CLIP features A", "CLIP features B", "image tokens of the LLM",
    "LLM hidden states", "supervised logits", "seg embeddings", "fused embeddings", "neck",
    "decoder masks, scale 0", "decoder masks, scale 1", "final masks", "loss, total",
    "loss ce_loss", "loss mask_bce_loss", "loss mask_dice_loss", "loss refinement, batch",
    "gradients", "gradient norms", "teacher-forced masks", "teacher-forced scores",
    "generated ids", "generated masks", "generated mask counts", "broken group, official",
    "matching costs", "matching assignments",
)  # fmt: skip
"""What the reference fixture must have been compared for."""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A fixture of another form: K = 1, five rows, an image without masks."""
    folder = tmp_path_factory.mktemp("small") / "fixture"
    return make_fixture(folder, 1, tokens_per_scale=1, **ENLARGED)


@pytest.fixture(scope="module")
def thinned(tmp_path_factory):
    """K = 3, tensors thinned out."""
    return make_fixture(tmp_path_factory.mktemp("thinned") / "fixture", 2, thinned=True)


def outcome(folder, capsys):
    """Exit code and printed text."""
    code = main([str(folder)])
    return code, capsys.readouterr().out


def failing(folder, capsys):
    """Names of the quantities that don't hold; the exit code must say the same."""
    code, text = outcome(folder, capsys)
    names = [line[7:].split(": ")[0] for line in text.splitlines() if line[:7] == "FAILED "]
    assert code == (1 if names else 0)
    return set(names)


def test_our_model_agrees_with_what_the_official_code_computed(capsys):
    code, text = outcome(OFFICIAL, capsys)
    assert code == 0, text
    assert "unknown to this check" not in text
    for quantity in QUANTITIES:
        assert any(row.startswith(quantity) and row.endswith("yes") for row in text.splitlines())


def test_fixtures_of_other_forms_are_read(small, thinned, capsys):
    assert failing(small, capsys) == failing(thinned, capsys) == set()


@pytest.mark.parametrize("sizes", [{"scales": 1, "tokens_per_scale": 1}, {"scales": 3}])
def test_other_numbers_of_scales_are_read(sizes, tmp_path, capsys):
    assert failing(make_fixture(tmp_path / "fixture", 3, **sizes), capsys) == set()


def test_a_folder_that_is_no_fixture_is_told_apart_from_a_failure(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "tests.parity" in capsys.readouterr().err


# What follows breaks one thing at a time.


def copied(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_a_changed_weight_is_noticed(small, tmp_path, capsys):
    folder = copied(small, tmp_path)
    path = folder / "hf_model" / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] += 0.05
    save_file(weights, path)
    bad = failing(folder, capsys)
    assert "LLM hidden states" in bad
    assert not {"CLIP features A", "neck"} & bad  # what lies before it still holds


def test_a_recorded_value_that_is_missing_is_a_failure_and_one_too_many_is_listed(
    small, tmp_path, capsys
):
    folder = copied(small, tmp_path)
    path = folder / "tensors.safetensors"
    tensors = load_file(path)
    tensors["loss.image0.something"] = tensors.pop("loss.clip_A")
    save_file(tensors, path)
    code, text = outcome(folder, capsys)
    assert code == 1
    assert "FAILED CLIP features A: loss.clip_A: not in the fixture" in text
    assert "not compared: loss.image0.something (unknown to this check)" in text


def test_swapped_features_are_noticed(small, monkeypatch, capsys):
    forward = VisionTower.forward
    monkeypatch.setattr(VisionTower, "forward", lambda *inputs: forward(*inputs)[::-1])
    assert {"CLIP features A", "CLIP features B", "image tokens of the LLM", "neck"} <= failing(
        small, capsys
    )


def test_clips_own_image_statistics_are_noticed(small, monkeypatch, capsys):
    monkeypatch.setattr("pixellm.images.PIXEL_MEAN", (122.77, 116.75, 104.09))
    assert {"image, normalised", "CLIP features A"} <= failing(small, capsys)


def test_a_position_table_resized_the_natural_way_is_noticed(small, monkeypatch, capsys):
    def natural(table, side):
        old = round((len(table) - 1) ** 0.5)
        grid = table[1:].T.reshape(1, -1, old, old)
        resized = torch.nn.functional.interpolate(grid, (side, side), mode="bilinear")
        return torch.cat([table[:1], resized.flatten(2)[0].T])

    monkeypatch.setattr("pixellm.checkpoints.resize_position_table", natural)
    assert "position table, resized" in failing(small, capsys)


def test_a_fusion_by_one_over_k_is_noticed(thinned, monkeypatch, capsys):
    fuse = Codebook.fuse
    monkeypatch.setattr(Codebook, "fuse", lambda self, v: self.scales * fuse(self, v))
    assert {"constants", "fused embeddings", "generated fused embeddings"} <= failing(
        thinned, capsys
    )


def test_reading_the_codebook_tokens_own_states_is_noticed(small, monkeypatch, capsys):
    monkeypatch.setattr("pixellm.training.predicting_positions", torch.isin)
    bad = failing(small, capsys)
    assert {"seg embeddings", "fused embeddings", "teacher-forced masks"} <= bad
    assert "LLM hidden states" not in bad


def test_another_dice_loss_is_noticed(small, monkeypatch, capsys):
    monkeypatch.setattr("pixellm.losses._dice", lambda logits, truth: logits.mean((1, 2)) * 0 + 0.5)
    bad = failing(small, capsys)
    assert "loss mask_dice_loss" in bad
    assert "final masks" not in bad


def test_a_missing_gradient_is_noticed(small, monkeypatch, capsys):
    monkeypatch.setattr("pixellm.decoder._fit", lambda logits, image: logits.detach())
    bad = failing(small, capsys)
    assert {"gradients", "gradient norms"} <= bad
    assert "decoder masks, scale 1" not in bad


def test_padding_left_in_the_masks_is_noticed(small, monkeypatch, capsys):
    def uncropped(low, _, original, side):
        return postprocess_masks(low, (side, side), original, side)

    monkeypatch.setattr("pixellm.training.postprocess_masks", uncropped)
    assert {"final masks", "teacher-forced masks"} <= failing(small, capsys)


def test_another_prompt_is_noticed(small, monkeypatch, capsys):
    def spaced(text, system):
        return render_prompt(f". {text}", system)

    monkeypatch.setattr("pixellm.prompts.render_prompt", spaced)
    assert {"prompt ids", "generated ids"} <= failing(small, capsys)


def test_masks_paired_by_order_are_noticed(small, monkeypatch, capsys):
    in_order = lambda cost: [(i, i) for i in range(min(cost.shape))]  # noqa: E731
    monkeypatch.setattr("tests.muse_reference.assign", in_order)
    assert "matching areas (official)" in failing(small, capsys)


def test_a_check_that_breaks_down_is_a_failure(small, monkeypatch, capsys):
    monkeypatch.setattr("tests.parity_images.resize_longest_side", lambda rgb, side: 1 / 0)
    _, text = outcome(small, capsys)
    assert "FAILED check_images: ZeroDivisionError" in text


def test_a_parameter_that_the_model_lacks_and_a_value_that_is_no_number_are_noticed(
    small, tmp_path, capsys
):
    folder = copied(small, tmp_path)
    meta = json.loads((folder / "meta.json").read_text())
    meta["grad_norms"]["model.other.weight"] = 1.0
    (folder / "meta.json").write_text(json.dumps(meta))
    path = folder / "tensors.safetensors"
    tensors = load_file(path)
    tensors["loss.llm_hidden"][0, 0, 0] = float("nan")
    save_file(tensors, path)
    assert failing(folder, capsys) == {"gradient norms", "LLM hidden states"}
