import asyncio
import gc
import io
import time
from collections import Counter, deque
from dataclasses import replace

import pytest
from PIL import Image

from pixellm.errors import ImageError
from tests.photos import load_photos
from tests.records import tar
from tests.same import assert_same_rows
from tests.workbench import (
    IDENTITY,
    INPUT,
    OUTPUT,
    QUESTIONS,
    BrokenEngine,
    CountingEngine,
    FlakyStore,
    bench_for,
    label,
    plan,
    put_lines,
    put_photos,
    table,
    tiny_engine,
)
from workers.errors import ReplicaBroken
from workers.labeller import _next, label_shard
from workers.labels.manifests import current_commits, stale_commits
from workers.meter import Meter
from workers.records.instructions import make_instruction
from workers.records.pictures import PictureLimits
from workers.records.record import FieldMap, ImageRef, Record


@pytest.fixture(scope="module")
def engine():
    return tiny_engine()


@pytest.fixture
def store():
    return FlakyStore()


def png(side=20, colour="red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return file.getvalue()


def test_every_photo_and_instruction_becomes_a_row_with_its_answer(store, engine):
    put_photos(store)
    model = CountingEngine(engine)
    summaries = label(store, model)
    rows = table(store)
    photos = {f"{INPUT}/{photo.name}": photo for photo in load_photos()}
    assert Counter(row.image_uri for row in rows) == Counter(dict.fromkeys(photos, 2))
    assert sorted(model.asked) == sorted(row.instruction for row in rows)
    assert {row.status for row in rows} <= {"ok", "empty", "partial"}
    assert sum(row.n_targets for row in rows) == sum(each.targets for each in summaries) > 0
    for row in rows:
        height, width, _ = photos[row.image_uri].rgb.shape
        assert (row.width, row.height) == (width, height)
        assert all(target.rle_size == (height, width) for target in row.targets)
    assert sum(each.records for each in summaries) == 8
    assert all(each.at_once > 0 for each in summaries)
    assert sum((Counter(each.counts) for each in summaries), Counter()).total() == len(rows)


def test_a_bad_image_is_a_row_with_its_reason_and_the_run_goes_on(store, engine):
    put_photos(store, 2)
    store.put(f"{INPUT}/broken.jpg", load_photos()[0].data[:5000])
    store.put(f"{INPUT}/notes.jpg", b"not an image")
    put_lines(
        store,
        {"image": "broken.jpg"},
        {"image": "notes.jpg"},
        {"image": "gone.jpg"},
        {"image": "/etc/passwd"},
        {"image": load_photos()[0].name, "instruction": "[SEG]"},
        {"no": "image"},
        {"image": load_photos()[1].name, "id": 7},
    )
    label(store, CountingEngine(engine), shards=plan(store, records=100), questions=QUESTIONS[:1])
    codes = {row.row_index: (row.status, row.error_code) for row in table(store)}
    assert codes.pop(6)[0] in ("ok", "empty", "partial")
    assert codes == {
        0: ("rejected_input", "image_broken"),
        1: ("rejected_input", "image_unknown_format"),
        2: ("rejected_input", "image_missing"),
        3: ("rejected_input", "image_refused"),
        4: ("rejected_input", "instruction_invalid"),
        5: ("rejected_input", "image_not_named"),
    }
    read = [row for row in table(store) if row.error_code == "image_broken"]
    assert all(row.image_sha256 and not row.width for row in read)


def test_a_tar_with_images_and_texts_is_labelled(store, engine):
    archive = tar(("a.png", png()), ("a.txt", b"the dog\nthe cat\n"), ("b.png", png(9)))
    store.put(f"{INPUT}/x.tar", archive)
    label(store, CountingEngine(engine), questions=())
    asked = {(row.image_member, row.instruction): row.error_code for row in table(store)}
    assert asked == {
        ("a.png", "the dog"): None,
        ("a.png", "the cat"): None,
        ("b.png", ""): "instruction_missing",
    }


def test_a_picture_that_the_model_can_not_take_is_a_row(store, engine, monkeypatch):
    def refuse(rgb, side):
        raise ImageError("no pixels")

    monkeypatch.setattr("workers.opening.prepare_image", refuse)
    put_photos(store, 1)
    label(store, CountingEngine(engine))
    rows = table(store)
    assert {(row.error_code, row.error_message) for row in rows} == {("image_broken", "no pixels")}
    assert all(row.image_sha256 for row in rows)


def test_rows_tell_how_long_their_answers_took_in_milliseconds(store, engine):
    class SlowEngine(CountingEngine):
        def step(self):
            time.sleep(0.05)
            return super().step()

    put_photos(store, 1)
    started = time.monotonic()
    label(store, SlowEngine(engine))
    most = 1000 * (time.monotonic() - started)
    assert [50 <= row.latency_ms <= most for row in table(store)] == [True, True]


def asked_of(bench, model):
    """Samples that the model was asked about and that have no answer yet."""
    return bench.model._line.qsize() + len(model.under_way)


def test_files_out_of_an_archive_are_let_go_once_they_are_pictures(store, engine):
    pictures = 6
    held = []

    class WatchingEngine(CountingEngine):
        def step(self):
            if not held:
                deadline = time.monotonic() + 20
                while asked_of(bench, self) < pictures and time.monotonic() < deadline:
                    time.sleep(0.01)
                refs = [each for each in gc.get_objects() if type(each) is ImageRef]
                held.append(sum(each.data is not None for each in refs))
            return super().step()

    store.put(f"{INPUT}/x.tar", tar(*((f"{n}.png", png(20 + n)) for n in range(pictures))))
    with bench_for(store, WatchingEngine(engine)) as bench:
        (shard,) = plan(store)
        asyncio.run(asyncio.wait_for(label_shard(shard, bench), 60))
    assert held[0] <= 2  # the one that is being read, and the one before


def test_a_poisoned_question_costs_its_own_row_only(store, engine):
    put_photos(store, 3)
    poison = QUESTIONS[0].text
    label(store, CountingEngine(engine, poison))
    for row in table(store):
        if row.instruction == poison:
            assert (row.status, row.error_code) == ("failed", "model_failed")
            assert row.error_message == "RuntimeError: poisoned"
            assert row.image_sha256
            assert row.width
        else:
            assert row.status in ("ok", "empty", "partial")


def test_an_instruction_that_the_model_has_no_room_for_is_rejected(store, engine):
    put_photos(store, 1)
    long = make_instruction("q9 x7 " * 150)
    label(store, CountingEngine(engine), questions=(QUESTIONS[0], long))
    statuses = {row.instruction: row.error_code for row in table(store)}
    assert statuses == {QUESTIONS[0].text: None, long.text: "instruction_invalid"}


def test_an_instruction_without_room_costs_the_others_nothing(store, engine):
    put_photos(store, 5)
    long = make_instruction("q9 x7 " * 150)
    lone, beside = CountingEngine(engine), CountingEngine(engine)
    # one picture at a time, so that the order doesn't depend on which is decoded first
    label(store, lone, plan(store, 100), run_id="lone", pictures=1)
    asked = (QUESTIONS[0], long, QUESTIONS[1])
    label(store, beside, plan(store, 100), run_id="beside", pictures=1, questions=asked)
    assert beside.asked == lone.asked
    assert long.text not in beside.asked
    rows = table(store, "beside")
    refused = [row for row in rows if row.instruction == long.text]
    assert {(row.status, row.error_code) for row in refused} == {
        ("rejected_input", "instruction_invalid")
    }
    assert all("leaves no room" in row.error_message and row.width for row in refused)
    assert len(refused) == 5
    answered = [row for row in rows if row.instruction != long.text]
    assert_same_rows(answered, table(store, "lone"))


def test_the_rows_do_not_depend_on_order_or_on_how_shards_are_cut(store, engine):
    put_photos(store)
    put_lines(
        store,
        *({"image": photo.name, "instructions": ["the dog", "the cat"]} for photo in load_photos()),
    )
    model = CountingEngine(engine)
    label(store, model, plan(store, 2)[::-1], run_id="one", pictures=1)
    label(store, model, plan(store, 100), run_id="two", pictures=16)
    one, two = ([replace(row, row_index=0) for row in table(store, run)] for run in ("one", "two"))
    assert len(one) == 16
    assert_same_rows(one, two)


def test_rows_that_an_earlier_plan_has_made_are_not_asked_again(store, engine):
    put_photos(store, 6)
    label(store, CountingEngine(engine))
    before = table(store)
    put_photos(store, 8)
    shards = plan(store)
    left = [s for s in shards if s.shard_id not in {row.shard_id for row in before}]
    stale = list(
        stale_commits(
            store,
            OUTPUT,
            fingerprint=IDENTITY.label_fingerprint,
            sources={INPUT},
            run_id="run-2",
            plan={shard.shard_id for shard in shards},
        )
    )
    model = CountingEngine(engine)
    summaries = label(store, model, shards, run_id="run-2", stale=stale)
    assert len(model.asked) == 4
    assert sum(each.reused for each in summaries) == 12
    assert left
    whole = FlakyStore()
    put_photos(whole, 8)
    label(whole, CountingEngine(engine))
    assert_same_rows(table(store, "run-2"), table(whole))
    assert {row.run_id for row in table(store, "run-2")} == {"run-2"}


def test_a_carried_over_row_stands_at_its_new_place(store, engine):
    photo = load_photos()[0]
    store.put(f"{INPUT}/a.jpg", photo.data)
    put_lines(store, {"image": "a.jpg", "id": "old", "instruction": "the dog"})
    label(store, CountingEngine(engine))
    (old,) = table(store)
    stale = list(current_commits(store, OUTPUT, "run-1"))
    store.put(f"{INPUT}/moved/b.jpg", photo.data)
    same = {"text": "the dog", "id": "mine", "kind": "one"}
    sorted_now = {"text": "the dog", "classes": ["dog", "cat"]}
    put_lines(
        store,
        {"image": "a.jpg", "instruction": "something else"},
        {"image": "moved/b.jpg", "id": "new", "n": 1, "instructions": [same, same, sorted_now]},
    )
    model = CountingEngine(engine)
    (summary,) = label(store, model, plan(store, 100), run_id="run-2", stale=stale)
    assert sorted(model.asked) == ["something else", "the dog"]
    assert (summary.reused, summary.rows, summary.records) == (2, 4, 2)
    rows = [row for row in table(store, "run-2") if row.instruction_id == "mine"]
    assert len(rows) == 2
    for row in rows:
        assert (row.result_id, row.targets, row.created_at) == (
            old.result_id,
            old.targets,
            old.created_at,
        )
        assert (row.image_uri, row.row_index) == (f"{INPUT}/moved/b.jpg", 1)
        assert (row.source_id, row.meta_json) == ("new", '{"n": 1}')
        assert (row.run_id, row.instruction_kind) == ("run-2", "one")


def test_failed_and_rejected_rows_are_tried_again(store, engine):
    put_photos(store, 2)
    label(store, CountingEngine(engine, QUESTIONS[0].text))
    stale = list(current_commits(store, OUTPUT, "run-1"))
    model = CountingEngine(engine)
    label(store, model, run_id="run-2", stale=stale)
    assert model.asked == [QUESTIONS[0].text] * 2


def test_earlier_parts_that_somebody_removed_are_done_without(store, engine):
    put_photos(store, 1)
    label(store, CountingEngine(engine))
    stale = list(current_commits(store, OUTPUT, "run-1"))
    store.delete(f"{OUTPUT}/{stale[0].part}")
    model = CountingEngine(engine)
    label(store, model, run_id="run-2", stale=stale)
    assert len(model.asked) == 2


def test_two_attempts_at_a_shard_end_as_one(store, engine):
    put_photos(store, 2)
    (shard, *_) = plan(store)
    first, second = label(store, CountingEngine(engine), [shard, shard])
    assert (first.rows, first.counts) == (second.rows, second.counts)
    assert len(table(store)) == first.rows


def test_no_more_pictures_are_alive_than_allowed(store, engine):
    put_photos(store)
    model = CountingEngine(engine)
    with bench_for(store, model, pictures=3) as bench:

        async def watch():
            work = asyncio.gather(*(label_shard(shard, bench) for shard in plan(store, 4)))
            most = 0
            while not work.done():
                most = max(most, asked_of(bench, model))
                await asyncio.sleep(0.001)
            return most, await work

        most, _ = asyncio.run(asyncio.wait_for(watch(), 60))
    assert 0 < most <= 3


def test_each_record_that_is_done_is_told_also_one_that_was_refused(store, engine):
    put_photos(store, 3)
    store.put(f"{INPUT}/broken.jpg", b"no image")
    (shard,) = plan(store, 100)
    told = []
    label(store, CountingEngine(engine), [shard], tell=lambda *words: told.append(words))
    assert told == [(("run-1", shard.shard_id), done) for done in (1, 2, 3, 4)]


def test_a_broken_model_passes_through_the_labeller(store, engine):
    put_photos(store, 8)

    with pytest.raises(ReplicaBroken):
        label(store, BrokenEngine(engine), plan(store, 100))
    assert not list(store.list(f"{OUTPUT}/labels"))


def test_images_may_lie_under_the_roots_that_are_given(store, engine):
    for place in ("mem://b/shelf", "mem://b/else"):
        store.put(f"{place}/a.png", png())
    asked = {"instruction": "the dog"}
    put_lines(store, *({"image": f"mem://b/{each}/a.png", **asked} for each in ("shelf", "else")))
    label(store, CountingEngine(engine), roots=(INPUT, "mem://b/shelf"))
    codes = {row.image_uri: row.error_code for row in table(store)}
    assert codes == {"mem://b/shelf/a.png": None, "mem://b/else/a.png": "image_refused"}


def test_no_more_of_a_file_is_read_than_is_allowed(store, engine):
    store.put(f"{INPUT}/a.png", png() + bytes(10**6))
    read, get = [], store.get
    store.get = lambda *call: read.append(get(*call)) or read[-1]
    label(store, CountingEngine(engine), limits=PictureLimits(max_bytes=5000))
    assert {row.error_code for row in table(store)} == {"image_too_large"}
    assert max(map(len, read)) < 10**5


def test_limits_and_field_names_of_the_settings_are_obeyed(store, engine):
    store.put(f"{INPUT}/a.png", png(50))
    put_lines(store, {"photo": "a.png", "ask": "the dog"}, {"photo": "a.png"})
    names = FieldMap(image=("photo",), instructions=("ask",))
    label(store, CountingEngine(engine), fields=names, limits=PictureLimits(max_pixels=99))
    rows = table(store)
    assert {row.error_code for row in rows} == {"image_too_many_pixels"}
    assert Counter(row.instruction for row in rows) == {"the dog": 2, "the red box": 1}


@pytest.mark.parametrize(
    ("data", "together"),
    [(None, 16), (bytes(600 * 2**10), 2), (bytes(3 * 2**20), 1)],
    ids=["addresses", "some bytes", "many bytes"],
)
def test_records_are_read_some_at_a_time_and_images_few(data, together):
    """A way to a thread and back costs as much as a record; and images wait in memory."""
    record = Record(0, None, ImageRef("a.tar", "a.png", None, data), (), None, None)
    records, meter = iter([record] * 20), Meter()
    sizes = [len(some) for some in iter(lambda: _next(records, meter), deque())]
    assert sizes[0] == max(sizes) == together
    assert sum(sizes) == 20
