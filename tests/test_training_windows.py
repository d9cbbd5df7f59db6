import pytest

from workers.training.windows import Block, plan_epoch

SIZES = (5, 3, 4, 1, 7, 2, 6, 5)
BLOCKS = [Block(part, range(size)) for part, size in enumerate(SIZES)]


@pytest.mark.parametrize("window_rows", [1, 6, 10, 33, 100])
def test_every_block_is_in_one_window_and_windows_follow_each_other(window_rows):
    windows = list(plan_epoch(BLOCKS, window_rows, seed=1, epoch=0))
    blocks = [block for window in windows for block in window.blocks]
    assert sorted(block.part for block in blocks) == list(range(8))
    assert [window.first for window in windows] == [0, *(w.stop for w in windows[:-1])]
    assert windows[-1].stop == sum(SIZES)


def test_a_window_is_full_as_soon_as_it_can_be():
    for window in list(plan_epoch(BLOCKS, 10, seed=1, epoch=0))[:-1]:
        rows = window.stop - window.first
        assert rows >= 10 > rows - len(window.blocks[-1].rows)


def test_blocks_come_in_another_order_for_another_epoch_or_seed():
    def order(seed, epoch):
        (window,) = plan_epoch(BLOCKS, 100, seed, epoch)
        return tuple(block.part for block in window.blocks)

    assert len({order(seed, epoch) for seed in (1, 2) for epoch in range(3)}) == 6
    assert order(1, 2) == order(1, 2)
