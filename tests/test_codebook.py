import pytest
import torch

from pixellm.codebook import Codebook, predicting_positions


def test_the_tokens_of_a_scale_are_added_with_the_official_share():
    codebook = Codebook(hidden=8, width=4, scales=2, tokens_per_scale=3)
    vectors = torch.randn(12, 4)  # two targets
    fused = codebook.fuse(vectors)
    assert fused.shape == (2, 2, 4)
    torch.testing.assert_close(fused[0, 0], vectors[:3].sum(0) / 6)  # 1 / (S * K), not 1 / K
    torch.testing.assert_close(fused[1, 1], vectors[9:].sum(0) / 6)


def test_a_lone_token_is_not_scaled():
    vectors = torch.randn(6, 4)
    fused = Codebook(hidden=8, width=4, scales=2, tokens_per_scale=1).fuse(vectors)
    assert torch.equal(fused, vectors.reshape(3, 2, 4))


def test_the_share_is_rounded_to_the_working_precision():
    codebook = Codebook(hidden=8, width=4, scales=2, tokens_per_scale=3)
    fused = codebook.fuse(torch.eye(6, 4).to(torch.bfloat16))
    assert fused[0, 0, 0].item() == 0.1669921875


def test_no_target_is_no_query():
    codebook = Codebook(hidden=8, width=4, scales=2, tokens_per_scale=3)
    assert codebook(torch.empty(0, 8)).shape == (0, 2, 4)


def test_half_a_group_can_not_be_fused():
    codebook = Codebook(hidden=8, width=4, scales=2, tokens_per_scale=3)
    with pytest.raises(RuntimeError, match="shape"):
        codebook.fuse(torch.randn(7, 4))


def test_a_token_is_read_where_it_is_predicted():
    ids = torch.tensor([[1, 40, 41, 5, 40], [40, 1, 1, 41, 9]])
    positions = predicting_positions(ids, torch.tensor([40, 41]))
    assert positions.int().tolist() == [[1, 1, 0, 1, 0], [0, 0, 1, 0, 0]]
