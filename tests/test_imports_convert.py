import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.convert import main
from tests.gold import PHOTOS, convert, instances, problems, read, what_counts, write
from tests.labels import label_photos
from tests.photos import FOLDER
from tests.trouble import Trouble
from workers.errors import AccessDenied, ObjectMissing, SettingsError
from workers.imports.formats import FORMATS
from workers.imports.settings import ConvertSettings
from workers.imports.source import Source
from workers.labels.commits import Ledger
from workers.labels.manifests import finish_run, manifests, read_manifest
from workers.labels.table import PartIdentity, write_part
from workers.storage.stores import Anywhere, open_store

ROOT = Path(__file__).resolve().parent.parent


def entries(count):
    """Referring expressions about the photos, as many as wanted."""
    found = []
    for number in range(count):
        image = PHOTOS[number % len(PHOTOS)]
        drawn = instances(image)
        polygons = drawn[number % len(drawn)]["segmentation"]
        asked = {"expression": f"thing {number}", "polygons": polygons}
        found.append({"image": image["file_name"], **asked})
    return found


def without_time(rows):
    return [replace(row, created_at=None) for row in rows]


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_rows_say_that_a_person_made_them_and_of_what_they_were_imported(tmp_path):
    source = write(tmp_path / "refs.json", entries(3))
    rows = convert("referring", source, tmp_path / "gold")
    for index, row in enumerate(rows):
        assert (row.origin, row.model_id, row.model_sha256, row.precision) == ("human", "", "", "")
        assert (row.row_index, row.shard_id, row.attempts) == (index, "0" * 8, 1)
        assert (row.review, row.latency_ms) == ("none", 0.0)
        told = json.loads(row.decode_json)
        assert (told["imported_from"], told["input"]) == ("referring", str(source))
        assert row.run_id.startswith("convert-")
        assert len(row.label_fingerprint) == 64
        (target,) = row.targets
        assert (target.score, target.score_mask) == (1.0, 1.0)
        assert (target.score_iou, target.score_token, target.score_phrase) == (None, None, None)


def test_a_second_start_does_nothing(tmp_path, capsys):
    source, output = write(tmp_path / "refs.json", entries(5)), tmp_path / "gold"
    rows = convert("referring", source, output, "--records-per-part", "2")
    before = files(output)
    again = convert("referring", source, output, "--records-per-part", "2")
    assert (again, files(output)) == (rows, before)
    assert "nothing to do: 3 parts" in capsys.readouterr().err


def test_another_source_or_another_setting_is_another_run(tmp_path):
    source, output = write(tmp_path / "refs.json", entries(2)), tmp_path / "gold"
    runs = {convert("referring", source, output)[0].run_id}
    runs.add(convert("referring", source, output, "--sentence-form", "Where is {}?")[0].run_id)
    write(source, entries(3))
    rows = convert("referring", source, output)
    runs.add(rows[0].run_id)
    assert len(runs) == 3
    assert len(rows) == 3, "the newest is what readers read"


def test_parts_follow_the_order_of_the_source(tmp_path):
    source = write(tmp_path / "refs.json", entries(5))
    rows = convert("referring", source, tmp_path / "gold", "--records-per-part", "2")
    assert [row.instruction for row in rows] == [f"thing {number}" for number in range(5)]
    assert sorted({row.shard_id for row in rows}) == [f"{number:08}" for number in range(3)]


@pytest.mark.parametrize("lost", ["manifest", "marker", "part and marker"])
def test_whatever_a_killed_import_had_not_done_is_done_by_the_next_start(tmp_path, lost):
    source, output = write(tmp_path / "refs.json", entries(6)), tmp_path / "gold"
    flags = ("--records-per-part", "2")
    whole = convert("referring", source, output, *flags)
    run, shard = whole[0].run_id, f"{1:08}"
    shutil.rmtree(output / "_runs")
    if lost != "manifest":
        (output / "_commits" / run / f"{shard}.json").unlink()
    if lost == "part and marker":
        (output / "labels" / run / f"{shard}.parquet").unlink()
    rows = convert("referring", source, output, *flags)
    assert without_time(rows) == without_time(whole)
    anew = {row.shard_id for row, old in zip(rows, whole, strict=True) if row != old}
    assert anew == ({shard} if lost == "part and marker" else set())
    assert read_manifest(Anywhere(), str(output), run).rows == 6


class Watched(Anywhere):
    """All stores, with a list of what was read whole."""

    def __init__(self):
        self.read = []

    def get(self, uri, start=0, length=None):
        self.read.append(uri)
        return super().get(uri, start, length)


def test_of_what_is_committed_no_image_is_looked_at_again(tmp_path, monkeypatch):
    source, output = write(tmp_path / "refs.json", entries(8)), tmp_path / "gold"
    flags = ("--records-per-part", "2")
    whole = convert("referring", source, output, *flags)
    shutil.rmtree(output / "_runs")
    (output / "labels" / whole[0].run_id / f"{3:08}.parquet").unlink()
    (output / "_commits" / whole[0].run_id / f"{3:08}.json").unlink()
    watched = Watched()
    monkeypatch.setattr(Source, "store", watched)
    rows = convert("referring", source, output, *flags)
    assert without_time(rows) == without_time(whole)
    assert sorted(watched.read) == sorted(row.image_uri for row in whole[6:])


class Changing(Anywhere):
    """All stores; somebody writes another source as soon as the first image is read."""

    def __init__(self, source):
        self.source = source

    def get(self, uri, start=0, length=None):
        write(self.source, entries(3))
        return super().get(uri, start, length)


def test_a_source_that_changes_meanwhile_is_not_taken_for_what_it_was(
    tmp_path, monkeypatch, capsys
):
    source, output = write(tmp_path / "refs.json", entries(2)), tmp_path / "gold"
    with monkeypatch.context() as patch:
        patch.setattr(Source, "store", Changing(source))
        convert("referring", source, output, code=2)
    assert "changed while it was imported" in capsys.readouterr().err
    assert manifests(Anywhere(), str(output)) == []
    assert len(convert("referring", source, output)) == 3


@pytest.mark.slow
def test_an_import_that_is_killed_goes_on_where_it_was(tmp_path):
    source = write(tmp_path / "refs.json", entries(400))
    flags = ["--from", "referring", "--input", str(source), "--images", str(FOLDER)]
    flags += ["--records-per-part", "4", "--output"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "jobs/convert.py", *flags, str(killed)]
    job = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 60
    while len(list(killed.glob("_commits/*/0*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert not (killed / "_runs").exists(), "killed before its end"
    before = {path: path.stat().st_mtime_ns for path in killed.glob("labels/*/*.parquet")}
    assert main([*flags, str(killed)]) == main([*flags, str(whole)]) == 0
    assert without_time(read(killed)) == without_time(read(whole))
    kept = [path for path, when in before.items() if path.stat().st_mtime_ns == when]
    assert len(kept) >= 3, "what was committed was not done again"


def test_images_that_were_missing_are_looked_for_again_when_asked_to(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    source, output = write(tmp_path / "refs.json", entries(2)), tmp_path / "gold"
    shutil.copy(FOLDER / PHOTOS[0]["file_name"], images)
    assert problems(convert("referring", source, output, images=images)) == [
        ("thing 1", "image_missing")
    ]
    shutil.copy(FOLDER / PHOTOS[1]["file_name"], images)
    assert len(problems(convert("referring", source, output, images=images))) == 1
    assert problems(convert("referring", source, output, "--refresh", images=images)) == []
    assert problems(convert("referring", source, output, images=images)) == []


def test_images_that_lie_elsewhere_are_told_before_every_row_is_rejected(tmp_path, capsys):
    source, output = write(tmp_path / "refs.json", entries(2)), tmp_path / "gold"
    convert("referring", source, output, images=tmp_path / "typo", code=2)
    told = capsys.readouterr().err
    assert f"there is no file under --images '{tmp_path}/typo'" in told
    assert "give the folder that the names of images start from" in told
    assert not output.exists()


def test_images_in_a_bucket_that_is_not_there_are_told(s3_server, tmp_path, capsys):
    source, output = write(tmp_path / "refs.json", entries(2)), tmp_path / "gold"
    convert("referring", source, output, images="s3://no-such-bucket/in", code=2)
    assert "--images 's3://no-such-bucket/in': " in capsys.readouterr().err
    assert not output.exists()


def test_who_may_read_images_need_not_be_allowed_to_list_them(tmp_path, monkeypatch):
    def deny(*_):
        raise AccessDenied("no lists")

    monkeypatch.setattr(Anywhere, "any_under", deny)
    source = write(tmp_path / "refs.json", entries(2))
    assert [row.status for row in convert("referring", source, tmp_path / "gold")] == ["ok", "ok"]


def test_the_summary_has_one_message_of_each_reason(tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(FOLDER / PHOTOS[0]["file_name"], images)
    source = write(tmp_path / "refs.json", entries(3))
    convert("referring", source, tmp_path / "gold", "--records-per-part", "1", images=images)
    told = capsys.readouterr().out
    assert told.count("for one: ") == 1
    assert "masks      1\n" in told
    (line,) = (each for each in told.splitlines() if "image_missing" in each)
    assert line.split()[1] == "2"
    assert f"{images}/{PHOTOS[1]['file_name']}" in line


@pytest.mark.parametrize("error", [AccessDenied("no lists"), ObjectMissing("no such bucket")])
def test_a_file_that_is_not_there_is_told_where_nothing_can_be_listed(
    tmp_path, monkeypatch, capsys, error
):
    def deny(*_):
        raise error

    monkeypatch.setattr(Anywhere, "any_under", deny)
    convert("referring", tmp_path / "refs.json", tmp_path / "gold", code=2)
    assert f"there is no file '{tmp_path}/refs.json'\n" in capsys.readouterr().err


def test_a_folder_in_the_place_of_the_file_is_told(tmp_path, capsys):
    write(tmp_path / "refs.json", entries(1))
    convert("referring", tmp_path, tmp_path / "gold", code=2)
    assert f"no file '{tmp_path}'; it is a folder: give the file in it" in capsys.readouterr().err


def test_a_file_that_is_cut_off_ends_the_import_and_is_not_taken_for_a_whole_one(tmp_path, capsys):
    text = json.dumps(entries(5))
    source, output = tmp_path / "refs.json", tmp_path / "gold"
    source.write_text(text[:-10])
    convert("referring", source, output, "--records-per-part", "2", code=2)
    assert "no sound JSON" in capsys.readouterr().err
    assert manifests(Anywhere(), str(output)) == []
    source.write_text(text)
    assert len(convert("referring", source, output, "--records-per-part", "2")) == 5


def test_labels_of_a_model_are_not_hidden_by_imported_ones(tmp_path, capsys):
    output = tmp_path / "labels"
    rows = label_photos()
    ledger = Ledger(Anywhere(), str(output), rows[0].run_id)
    part = write_part(rows, PartIdentity(rows[0].run_id, "1" * 20, "f"))
    ledger.commit("1" * 20, part, fingerprint="f", source="in", source_etag="e")
    finish_run(ledger, ["1" * 20], planned_at="", source="in", settings_digest="s", fingerprint="f")
    before = files(output)
    source = write(tmp_path / "refs.json", entries(1))
    convert("referring", source, output, code=2)
    assert "holds labels that a model made" in capsys.readouterr().err
    assert files(output) == before


def test_an_empty_source_is_an_empty_table(tmp_path):
    assert convert("referring", write(tmp_path / "refs.json", []), tmp_path / "gold") == []


def test_an_output_that_takes_nothing_is_told(tmp_path, capsys):
    source = write(tmp_path / "refs.json", entries(1))
    (tmp_path / "file").write_text("no folder")
    convert("referring", source, tmp_path / "file" / "gold", code=1)
    assert "the output can't be written" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "harm"), [("PUT", "drop"), ("PUT", "refuse"), ("PUT", "500"), ("GET", "cut")]
)
def test_a_bucket_that_refuses_or_loses_answers_changes_no_row(
    s3_server, bucket, tmp_path, monkeypatch, method, harm
):
    source = write(tmp_path / "asked.json", entries(12))
    plain = convert("referring", source, tmp_path / "gold", "--records-per-part", "4")
    store = open_store(f"s3://{bucket}/in")
    for image in PHOTOS:
        name = image["file_name"]
        store.put(f"s3://{bucket}/in/{name}", (FOLDER / name).read_bytes())
    with Trouble(s3_server, method, harm, 2) as proxy, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        output, flags = f"s3://{bucket}/gold", ("--records-per-part", "4")
        rows = convert("referring", source, output, *flags, images=f"s3://{bucket}/in")
        assert proxy.left < 0, "there was trouble, and more calls than that"
    assert [what_counts(row) for row in rows] == [what_counts(row) for row in plain]


def test_source_images_and_table_may_lie_in_a_bucket(bucket):
    store = open_store(f"s3://{bucket}/x")
    for image in PHOTOS[:2]:
        data = (FOLDER / image["file_name"]).read_bytes()
        store.put(f"s3://{bucket}/in/train2017/{image['file_name']}", data)
    listed = [
        {
            "coco_url": f"http://images.cocodataset.org/train2017/{image['file_name']}",
            "height": image["height"],
            "width": image["width"],
            "questions": ["what?"],
            "answers": [[{**instances(image)[0], "category_name": "x"}]],
        }
        for image in PHOTOS[:3]
    ]
    store.put(f"s3://{bucket}/in/MUSE_val.json", json.dumps(listed).encode())
    output = f"s3://{bucket}/gold"
    rows = convert("muse", f"s3://{bucket}/in/MUSE_val.json", output, images=None)
    assert [row.status for row in rows] == ["ok", "ok", "rejected_input"]
    assert rows[2].error_code == "image_missing"
    assert rows[0].image_uri == f"s3://{bucket}/in/train2017/{PHOTOS[0]['file_name']}"


def refusal(*flags):
    with pytest.raises(SettingsError) as caught:
        ConvertSettings.from_flags(flags, "python jobs/convert.py")
    return str(caught.value)


PLACES = ("--input", "/in/a.json", "--output", "/out")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (PLACES, "--from is missing"),
        (("--from", "voc", *PLACES), "--from: input should be 'muse', 'referring'"),
        (("--from", "muse", *PLACES, "--split", "val"), "--split means nothing for --from muse"),
        (("--from", "coco", *PLACES, "--referring", "multi"), "takes --absent, --mask-of, --name"),
        (("--from", "coco", *PLACES, "--absent", "-1"), "--absent"),
        (("--from", "muse", *PLACES, "--sentence-form", "Where?"), "must hold {} once"),
        (("--from", "muse", "--input", "https://a/b", "--output", "/o"), "no place for files"),
        (("--from", "muse", *PLACES, "--imagse", "x"), "did you mean --images"),
    ],
)
def test_settings_that_are_wrong_are_refused_with_a_way_out(flags, says):
    assert says in refusal(*flags)


def test_images_lie_beside_the_input_unless_told_otherwise():
    for form, folder in (("muse", "/in"), ("reasonseg", "/in/a.json")):
        settings = ConvertSettings.from_flags(("--from", form, *PLACES), "x")
        assert settings.source.images == folder


def test_help_explains_every_setting_without_loading_a_model(capsys):
    code = "import sys; from jobs.convert import main\ntry: main(['--help'])\nfinally: "
    code += "print([name for name in ('torch', 'ray', 'boto3') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.rstrip().endswith("[]")
    assert "--from {muse,referring,refcoco,reasonseg,coco} --input PLACE" in done.stdout
    for name, field in ConvertSettings.model_fields.items():
        assert f"--{(field.alias or name).replace('_', '-')}" in done.stdout
        assert field.description
    told = " ".join(done.stdout.split())
    for name, form in FORMATS.items():
        assert f"{name} ({form.about})" in told
