"""What masks have in common, together and apart, counted on their runs and never unfolded.

Letters: r runs, n places.
"""

from collections.abc import Sequence

import numpy as np

from pixellm.run_lengths import Numbers, RunMask


def common_areas(rows: Sequence[RunMask], columns: Sequence[RunMask]) -> Numbers:
    """Pixels that each mask of one list has in common with each of another, (rows, columns).

    A mask of the rows is looked through once for all borders of all columns.
    """
    if not rows or not columns:
        return np.zeros((len(rows), len(columns)), np.int64)
    starts = np.concatenate([mask.starts for mask in columns])
    ends = np.concatenate([mask.ends for mask in columns])
    firsts = np.cumsum([0, *(len(mask.starts) for mask in columns)])
    found = np.empty((len(rows), len(columns)), np.int64)
    for row, mask in zip(found, rows, strict=True):
        inside = _pixels_before(mask, ends) - _pixels_before(mask, starts)
        row[:] = np.diff(np.concatenate([[0], np.cumsum(inside)])[firsts])
    return found


def join_masks(masks: Sequence[RunMask]) -> RunMask:
    """The pixels that any of the masks has; at least one mask.

    Once starts and ends are sorted each for themselves, a run of the union begins where all runs
    that began before have ended.
    """
    starts = np.sort(np.concatenate([mask.starts for mask in masks]))
    ends = np.sort(np.concatenate([mask.ends for mask in masks]))
    apart = starts[1:] > ends[:-1]
    return RunMask(
        masks[0].size,
        np.concatenate([starts[:1], starts[1:][apart]]),
        np.concatenate([ends[:-1][apart], ends[-1:]]),
    )


def cut_out(mask: RunMask, region: RunMask) -> RunMask:
    """The pixels of a mask that do not lie in a region: all but those outside it or inside that."""
    return _rest(join_masks([_rest(mask), region]))


def _rest(mask: RunMask) -> RunMask:
    """The pixels that a mask does not have."""
    total = mask.size[0] * mask.size[1]
    starts, ends = np.append(0, mask.ends), np.append(mask.starts, total)
    real = starts < ends  # there is nothing before a run that starts at 0
    return RunMask(mask.size, starts[real], ends[real])


def _pixels_before(mask: RunMask, places: Numbers) -> Numbers:
    """(n,) how many pixels of the mask come before each of (n,) places."""
    passed = np.zeros(len(mask.starts) + 1, np.int64)
    np.cumsum(mask.ends - mask.starts, out=passed[1:])
    last_ends = np.zeros(len(mask.starts) + 1, np.int64)
    last_ends[1:] = mask.ends
    begun = mask.starts.searchsorted(places)  # runs that start before
    return passed[begun] - np.maximum(last_ends[begun] - places, 0)
