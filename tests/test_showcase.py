import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.labels import ATTEMPT, make_answer, make_record
from tests.photos import Photo, load_photos
from workers.labels import manifests
from workers.labels.commits import Ledger
from workers.labels.rows import answer_row, rejected_rows
from workers.labels.schema import LabelRow
from workers.labels.table import PartIdentity, PartReader, write_part
from workers.records.instructions import make_instruction
from workers.records.pictures import PictureLimits, decode_picture
from workers.records.rejections import Rejection
from workers.sheets.sheet import draw_sheet, make_card
from workers.sheets.showcase import write_sheet
from workers.storage.local import LocalStore

PHOTOS = load_photos()[:4]


def labelled(photo: Photo, place: Path, member=None, index=0, text="what is there?") -> LabelRow:
    record = make_record(str(place), make_instruction(text), index=index, member=member)
    facts = decode_picture(photo.data, PictureLimits()).facts()
    return answer_row(record, facts, make_answer(photo.masks, photo.phrases), ATTEMPT, 1.0)


def commit(output: Path, rows, shard_id="1" * 20) -> None:
    part = write_part(rows, PartIdentity("run-1", shard_id, "f"))
    ledger = Ledger(LocalStore(), str(output), "run-1")
    ledger.commit(shard_id, part, fingerprint="f", source="in", source_etag="e")


def sheet(output: Path, **options) -> np.ndarray:
    with Image.open(write_sheet(str(output), **options)) as image:
        return np.asarray(image.convert("RGB"))


def expected(*cards: tuple[LabelRow, Photo | None]) -> np.ndarray:
    return np.asarray(draw_sheet([make_card(row, photo and photo.rgb) for row, photo in cards]))


def put_tar(path: Path) -> None:
    with tarfile.open(path, mode="w") as archive:
        for number, photo in enumerate(PHOTOS):
            for ending, data in (("txt", b"what is there?"), ("jpg", photo.data)):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def test_images_of_a_tar_are_shown_with_their_masks(tmp_path):
    put_tar(tmp_path / "x.tar")
    rows = [
        labelled(photo, tmp_path / "x.tar", f"{number}.jpg", number)
        for number, photo in enumerate(PHOTOS)
    ]
    commit(tmp_path / "out", rows)
    assert np.array_equal(sheet(tmp_path / "out"), expected(*zip(rows, PHOTOS, strict=True)))


def test_images_of_a_parquet_file_are_shown_in_the_order_of_its_rows(tmp_path):
    images = [{"bytes": PHOTOS[number % 4].data, "path": f"{number}.jpg"} for number in range(12)]
    table = pa.table({"image": images, "text": ["what is there?"] * 12})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=5)
    made = [labelled(PHOTOS[n % 4], tmp_path / "x.parquet", f"{n}/{n}.jpg", n) for n in range(12)]
    commit(tmp_path / "out", made[::-1])
    seen = [(made[n], PHOTOS[n % 4]) for n in (0, 1, 2)]
    assert np.array_equal(sheet(tmp_path / "out", cards=3), expected(*seen))
    commit(tmp_path / "ten", made[9:11])
    ten = [(made[n], PHOTOS[n % 4]) for n in (9, 10)]
    assert np.array_equal(sheet(tmp_path / "ten"), expected(*ten))


def test_the_first_images_come_with_all_their_questions_from_whatever_part(tmp_path):
    places = [tmp_path / f"{number}.jpg" for number in range(3)]
    for place, photo in zip(places, PHOTOS, strict=False):
        place.write_bytes(photo.data)
    one, two, three = (labelled(p, at) for p, at in zip(PHOTOS, places, strict=False))
    again = labelled(PHOTOS[0], places[0], text="and what else?")
    same = make_record(str(places[0]), make_instruction(one.instruction))
    refused = rejected_rows(same, Rejection("image_broken", "cut off"), ATTEMPT)
    commit(tmp_path / "out", [three, *refused, one], "1" * 20)
    commit(tmp_path / "out", [two, again], "2" * 20)
    seen = expected((again, PHOTOS[0]), (one, PHOTOS[0]), (two, PHOTOS[1]))
    assert np.array_equal(sheet(tmp_path / "out", cards=3), seen)


def test_masks_are_read_of_the_parts_that_are_shown_and_of_no_others(tmp_path, monkeypatch):
    opened = []

    class Watched(PartReader):
        def rows(self, columns=None):
            opened.append((self.identity.shard_id[0], columns is None or "targets" in columns))
            return super().rows(columns)

    monkeypatch.setattr(manifests, "PartReader", Watched)
    for number in range(4):
        row = labelled(PHOTOS[number], tmp_path / f"{number}.jpg")
        commit(tmp_path / "out", [row], f"{number}" * 20)
    sheet(tmp_path / "out", cards=2)
    light = [(f"{number}", False) for number in range(4)]
    assert opened == [*light, ("0", True), ("1", True)]


@pytest.mark.parametrize("name", ["gone.tar", "gone.parquet", "gone.jpg", "broken.tar"])
def test_an_image_that_can_not_be_had_any_more_is_a_card_without_it(tmp_path, name):
    (tmp_path / "broken.tar").write_bytes(b"no archive")
    row = labelled(PHOTOS[0], tmp_path / name, "0.jpg")
    commit(tmp_path / "out", [row])
    assert np.array_equal(sheet(tmp_path / "out"), expected((row, None)))
