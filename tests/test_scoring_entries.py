from dataclasses import replace

from tests.labels import MADE_BY
from tests.scoring import box, failed, row
from workers.labels.rle import decode_mask
from workers.scoring.entries import make_entry, pack_entries, unpack_entries

SQUARE = [box(0, 0, 4, 4)]


def test_entries_come_back_as_they_were_set_aside():
    entries = [
        make_entry(each)
        for each in (
            row(SQUARE, ['a "mug"\n\u2028é'], [0.1], kind="use"),
            row(SQUARE, [None], ignored=SQUARE),
            row(),
            failed(),
        )
    ]
    assert list(unpack_entries(pack_entries(entries))) == entries
    assert list(unpack_entries(pack_entries([]))) == []


def test_an_entry_has_what_its_row_says():
    made = make_entry(row([box(1, 2, 3, 5)], ["mug"], [0.75], kind="use"))
    (target,) = made.targets
    assert (made.kind, made.answered, made.model_sha256) == ("use", True, MADE_BY.model_sha256)
    assert made.adapter_sha256 is None
    assert (target.name, target.score, target.ignored) == ("mug", 0.75, False)
    assert target.raw == (0.75, None, 0.25, 0.125)
    assert (decode_mask(target.size, target.counts) == box(1, 2, 3, 5)).all()


def test_a_target_without_a_phrase_is_called_by_its_category():
    made = row(SQUARE, [None])
    (target,) = made.targets
    (entry,) = make_entry(replace(made, targets=(replace(target, category="cup"),))).targets
    assert entry.name == "cup"
