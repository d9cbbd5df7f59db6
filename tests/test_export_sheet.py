"""Picture sheets as the export job writes them: which rows, which photos, and what is told."""

import io
import re
import subprocess
import sys
import tarfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.export import main
from tests.labels import ATTEMPT, make_answer, make_record
from tests.photos import Photo, load_photos
from workers.errors import ExportError
from workers.exports.formats import FORMATS, export_run
from workers.exports.selection import ExportOptions
from workers.exports.settings import MAX_CARDS
from workers.exports.sheet import check_sheet
from workers.labels import parts
from workers.labels.commits import Ledger
from workers.labels.rows import answer_row, rejected_rows
from workers.labels.schema import LabelRow
from workers.labels.table import PartIdentity, PartReader, write_part
from workers.records.instructions import make_instruction
from workers.records.pictures import PictureFacts, PictureLimits, decode_picture
from workers.records.rejections import Rejection
from workers.sheets.sheet import draw_sheet, make_card
from workers.storage.local import LocalStore

ROOT = Path(__file__).parent.parent
PHOTOS = load_photos()[:4]
GONE = {"pictures that are gone, replaced or unreadable": 1}


def labelled(photo: Photo, place: Path, member=None, index=0, text="what is there?") -> LabelRow:
    record = make_record(str(place), make_instruction(text), index=index, member=member)
    facts = decode_picture(photo.data, PictureLimits()).facts()
    return answer_row(record, facts, make_answer(photo.masks, photo.phrases), ATTEMPT, 1.0)


def commit(output: Path, rows, shard_id="1" * 20, run_id="run-1") -> None:
    part = write_part(rows, PartIdentity(run_id, shard_id, "f"))
    ledger = Ledger(LocalStore(), str(output), run_id)
    ledger.commit(shard_id, part, fingerprint="f", source="in", source_etag="e")


def export(output: Path, run_id=None, **options):
    """Exports a sheet; returns its pixels and the summary."""
    path, chosen = output / "sheet.png", ExportOptions(**options)
    summary = export_run("sheet", LocalStore(), str(output), run_id, str(path), chosen)
    return pixels(path), summary


def sheet(output: Path, **options) -> np.ndarray:
    return export(output, **options)[0]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def expected(*cards: tuple[LabelRow, Photo | None]) -> np.ndarray:
    return np.asarray(draw_sheet([make_card(row, photo and photo.rgb) for row, photo in cards]))


def put_files(folder: Path) -> list[LabelRow]:
    places = [folder / f"{number}.jpg" for number in range(len(PHOTOS))]
    for place, photo in zip(places, PHOTOS, strict=True):
        place.write_bytes(photo.data)
    return [labelled(photo, at) for photo, at in zip(PHOTOS, places, strict=True)]


def put_tar(path: Path) -> None:
    with tarfile.open(path, mode="w") as archive:
        for number, photo in enumerate(PHOTOS):
            for ending, data in (("txt", b"what is there?"), ("jpg", photo.data)):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


# ---- which rows ----------------------------------------------------------------------------------


def test_the_first_images_come_with_all_their_questions_from_whatever_part(tmp_path):
    one, two, three, _ = put_files(tmp_path)
    again = labelled(PHOTOS[0], tmp_path / "0.jpg", text="and what else?")
    same = make_record(str(tmp_path / "0.jpg"), make_instruction(one.instruction))
    refused = rejected_rows(same, Rejection("image_broken", "cut off"), ATTEMPT)
    commit(tmp_path / "out", [three, *refused, one], "1" * 20)
    commit(tmp_path / "out", [two, again], "2" * 20)
    found, summary = export(tmp_path / "out", cards=3)
    seen = expected((again, PHOTOS[0]), (one, PHOTOS[0]), (two, PHOTOS[1]))
    assert np.array_equal(found, seen)
    masks = 2 * len(PHOTOS[0].masks) + len(PHOTOS[1].masks)
    assert (summary.images, summary.masks, summary.others) == (2, masks, {"cards": 3})
    assert summary.left_out == {
        "rows without an answer": 1,
        "answered rows after the first 3; --cards takes more": 1,
    }


def test_masks_are_read_of_the_parts_that_are_shown_and_of_no_others(tmp_path, monkeypatch):
    opened = []

    class Watched(PartReader):
        def rows(self, columns=None):
            opened.append((self.identity.shard_id[0], columns is None or "targets" in columns))
            return super().rows(columns)

    monkeypatch.setattr(parts, "PartReader", Watched)
    for number, row in enumerate(put_files(tmp_path)):
        commit(tmp_path / "out", [row], f"{number}" * 20)
    sheet(tmp_path / "out", cards=2)
    light = [(f"{number}", False) for number in range(4)]
    assert opened == [*light, ("0", True), ("1", True)]


def test_the_run_that_is_named_is_shown(tmp_path):
    one, two, *_ = put_files(tmp_path)
    commit(tmp_path / "out", [one], run_id="run-1")
    commit(tmp_path / "out", [two], run_id="run-2")
    assert np.array_equal(sheet(tmp_path / "out", run_id="run-1"), expected((one, PHOTOS[0])))
    assert np.array_equal(sheet(tmp_path / "out", run_id="run-2"), expected((two, PHOTOS[1])))


def test_masks_of_a_low_score_are_not_drawn(tmp_path):
    row = put_files(tmp_path)[1]
    best = replace(row, targets=row.targets[-1:])
    assert len(row.targets) > 1
    commit(tmp_path / "out", [row])
    found, summary = export(tmp_path / "out", min_score=best.targets[0].score - 0.005)
    assert np.array_equal(found, expected((best, PHOTOS[1])))
    assert summary.masks == 1
    assert summary.left_out == {"masks below the lowest score": len(row.targets) - 1}


def test_an_answer_that_was_cut_off_is_shown_with_the_masks_that_it_has(tmp_path):
    row = put_files(tmp_path)[0]
    cut = replace(row, status="partial", qa_flags=("truncated",))
    other = labelled(PHOTOS[0], tmp_path / "0.jpg", text="and what else?")
    nothing = replace(other, status="partial", answer_text="The mug is", targets=())
    commit(tmp_path / "out", [cut, nothing])
    found, summary = export(tmp_path / "out")
    assert np.array_equal(found, expected((cut, PHOTOS[0])))
    assert summary.masks == len(row.targets)
    assert summary.left_out == {"rows without an answer": 1}


def test_a_run_without_answers_is_no_sheet(tmp_path):
    refused = rejected_rows(make_record("/in/a.jpg"), Rejection("image_broken", "x"), ATTEMPT)
    commit(tmp_path / "out", refused)
    with pytest.raises(ExportError, match="no row of the run has an answer"):
        sheet(tmp_path / "out")
    assert not (tmp_path / "out" / "sheet.png").exists()


# ---- which photos --------------------------------------------------------------------------------


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


def column_of(kind: str) -> pa.Array:
    data = [photo.data for photo in PHOTOS]
    match kind:
        case "struct":
            # beside the bytes, what Python has no type for: it must not be asked for
            taken = pa.array([2**62] * 4, pa.timestamp("ns", tz="no/where"))
            return pa.StructArray.from_arrays([pa.array(data), taken], ["bytes", "taken"])
        case "dictionary":
            return pa.array(data).dictionary_encode()
        case _:
            return pa.array(data, {"binary": pa.binary(), "large": pa.large_binary()}[kind])


@pytest.mark.parametrize("kind", ["binary", "large", "struct", "dictionary"])
def test_a_picture_is_found_by_its_content_in_a_column_of_any_name(tmp_path, kind):
    columns = {
        "notiz": ["what is there?"] * 4,
        "vorschau.klein": [b"no picture"] * 4,
        "nachbar": [photo.data for photo in (*PHOTOS[1:], PHOTOS[0])],
        "foto.gross": column_of(kind),
        "leer": pa.nulls(4, pa.binary()),
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=2)
    rows = [labelled(PHOTOS[n], tmp_path / "x.parquet", f"{n}", n) for n in (1, 3)]
    commit(tmp_path / "out", rows)
    found, summary = export(tmp_path / "out")
    assert np.array_equal(found, expected((rows[0], PHOTOS[1]), (rows[1], PHOTOS[3])))
    assert summary.left_out == {}


def test_row_groups_and_columns_that_hold_no_wanted_picture_are_not_read(tmp_path):
    """They are damaged here: whoever reads them sees no picture."""
    path, count = tmp_path / "x.parquet", len(PHOTOS)
    other = [f"{number}" * 1000 for number in range(count)]
    table = pa.table({"foto": [photo.data for photo in PHOTOS], "text": other})
    pq.write_table(table, path, row_group_size=1, write_page_checksum=True, compression="none")
    data, footer = bytearray(path.read_bytes()), pq.read_metadata(path)
    chunks = [footer.row_group(n).column(0) for n in (0, 1, 3)]
    chunks += [footer.row_group(n).column(1) for n in range(count)]
    for chunk in chunks:
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        data[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(data)
    row = labelled(PHOTOS[2], path, "2", 2)
    commit(tmp_path / "out", [row])
    assert np.array_equal(sheet(tmp_path / "out"), expected((row, PHOTOS[2])))
    spoilt = labelled(PHOTOS[1], path, "1", 1)
    commit(tmp_path / "spoilt", [spoilt])
    found, summary = export(tmp_path / "spoilt")
    assert np.array_equal(found, expected((spoilt, None)))
    assert summary.left_out == GONE


def test_a_large_parquet_file_is_gone_through_in_little_memory(tmp_path):
    """240 MB of pictures in one row group, in pages of 4 MB, and the wanted one at their end."""
    noise = np.random.default_rng(0).bytes(2**20)
    fillers = [noise[n:] + noise[:n] for n in range(240)]
    table = pa.table({"foto": [*fillers, PHOTOS[0].data]})
    how = {"use_dictionary": False, "compression": "none", "write_batch_size": 4}
    pq.write_table(table, tmp_path / "x.parquet", **how)
    row = labelled(PHOTOS[0], tmp_path / "x.parquet", "240", 240)
    commit(tmp_path / "out", [row])
    script = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from jobs.export import main\n"
        "def peak():  # of this process; ru_maxrss would begin with that of its parent\n"
        "    text = Path('/proc/self/status').read_text()\n"
        "    return int(re.search(r'VmHWM:\\s+(\\d+) kB', text)[1]) // 1024\n"
        "before = peak()\n"
        "print(main(sys.argv[1:]), peak() - before)\n"
    )
    out = tmp_path / "out"
    arguments = ["--labels", str(out), "--to", "sheet", "--output", str(out / "s.png")]
    done = run_python("-c", script, *arguments)
    code, grown = done.stdout.splitlines()[-1].split()
    assert (code, done.stderr) == ("0", "")
    assert int(grown) < 220  # MiB; 150 are seen, and 350 when the column is read at once
    assert np.array_equal(pixels(out / "s.png"), expected((row, PHOTOS[0])))


def run_python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


GONE_FILES = {
    "gone.tar": "0.jpg",
    "gone.parquet": "0/0.jpg",
    "gone.jpg": None,
    "broken.tar": "0.jpg",
    "broken.parquet": "0",
    "without.parquet": "0",
    "short.parquet": "7",
    "replaced.jpg": None,
    "broken.jpg": None,
}


@pytest.mark.parametrize("name", GONE_FILES)
def test_an_image_that_can_not_be_had_any_more_is_a_card_without_it(tmp_path, name):
    (tmp_path / "broken.tar").write_bytes(b"no archive")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no table PAR1")
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "without.parquet")
    pq.write_table(pa.table({"image": [PHOTOS[0].data]}), tmp_path / "short.parquet")
    (tmp_path / "replaced.jpg").write_bytes(PHOTOS[1].data)
    (tmp_path / "broken.jpg").write_bytes(PHOTOS[0].data[:-999])
    row = labelled(PHOTOS[0], tmp_path / name, GONE_FILES[name])
    (tmp_path / "1.jpg").write_bytes(PHOTOS[1].data)
    other = labelled(PHOTOS[1], tmp_path / "1.jpg")
    commit(tmp_path / "out", [row, other])
    found, summary = export(tmp_path / "out")
    shown = sorted([(row, None), (other, PHOTOS[1])], key=lambda card: card[0].image_uri)
    assert np.array_equal(found, expected(*shown))
    assert (summary.images, summary.masks) == (1, len(PHOTOS[1].masks))
    assert summary.left_out == GONE


def test_a_picture_that_is_too_large_to_be_shown_hides_no_other(tmp_path):
    """It was labelled under limits that are not ours."""
    large, sound = tmp_path / "0.png", tmp_path / "1.jpg"
    Image.new("1", (8_001, 8_000)).save(large)
    sound.write_bytes(PHOTOS[1].data)
    facts = PictureFacts(sha256(large.read_bytes()).hexdigest(), 8, 6, 1)
    answer = make_answer([np.ones((6, 8), dtype=bool)])
    row = answer_row(make_record(str(large)), facts, answer, ATTEMPT, 1.0)
    other = labelled(PHOTOS[1], sound)
    commit(tmp_path / "out", [row, other])
    found, summary = export(tmp_path / "out")
    assert np.array_equal(found, expected((row, None), (other, PHOTOS[1])))
    assert summary.left_out == GONE


# ---- the job -------------------------------------------------------------------------------------


def test_the_job_writes_a_sheet_and_says_what_is_in_it(tmp_path, capsys):
    rows = put_files(tmp_path)
    commit(tmp_path / "out", rows)
    path = tmp_path / "sheet.png"
    given = ["--labels", str(tmp_path / "out"), "--to", "sheet", "--output", str(path)]
    assert main([*given, "--cards", "3"]) == 0
    masks = sum(len(photo.masks) for photo in PHOTOS[:3])
    told = f"wrote '{path}': 3 images, {masks} masks, 3 cards; checked with Pillow\n"
    assert capsys.readouterr().out == (
        f"{told}left out: 1 answered rows after the first 3; --cards takes more\n"
    )
    assert np.array_equal(pixels(path), expected(*zip(rows[:3], PHOTOS, strict=False)))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--segmentation", "rle"], "--segmentation means nothing for --to sheet, which takes "),
        (["--categories", "object"], "--categories means nothing for --to sheet, which takes "),
        (["--cards", "0"], "--cards: input should be greater than or equal to 1, not '0'"),
        (["--cards", f"{MAX_CARDS + 1}"], "--cards: input should be less than or equal to"),
    ],
)
def test_a_flag_that_means_nothing_for_a_sheet_is_refused(tmp_path, capsys, arguments, said):
    commit(tmp_path / "out", put_files(tmp_path))
    path = tmp_path / "sheet.png"
    given = ["--labels", str(tmp_path / "out"), "--to", "sheet", "--output", str(path)]
    assert main([*given, *arguments]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert not path.exists()


def test_what_a_form_takes_are_options_that_there_are():
    for form in FORMATS.values():
        assert form.takes <= set(ExportOptions.__dataclass_fields__)


@pytest.mark.parametrize("damage", ["cut", "flipped", "jpeg", "empty", "huge"])
def test_a_sheet_that_can_not_be_read_back_is_not_sound(tmp_path, damage):
    path = tmp_path / "sheet.png"
    draw_sheet([make_card(labelled(PHOTOS[0], tmp_path / "x"), PHOTOS[0].rgb)]).save(path)
    assert check_sheet(path) == []
    data = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "flipped":
            middle = len(data) // 2
            path.write_bytes(data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :])
        case "jpeg":
            path.write_bytes(PHOTOS[0].data)
        case "empty":
            path.write_bytes(b"")
        case "huge":
            Image.new("1", (20_000, 10_000)).save(path)
    (problem,) = check_sheet(path)
    assert bool(re.search("--cards", problem)) == (damage == "huge")
