import asyncio
import io
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pixellm.checkpoints import save_checkpoint
from pixellm.tiny import tiny_checkpoint
from tests.photos import load_photos
from workers import driver
from workers.driver import describe_plan, label_run, plan_run
from workers.errors import PlanError, SettingsError
from workers.hardware import settle_hardware
from workers.labeller import label_shard
from workers.labels.commits import Guarantee, Ledger
from workers.labels.manifests import current_commits, manifests
from workers.labels.parts import read_rows
from workers.labels.schema import LabelRow
from workers.progress import Progress, describe_run
from workers.replica import lay_out_bench
from workers.settings import LabelSettings
from workers.shards.listing import ShardKind
from workers.shards.plan import Shard
from workers.storage.memory import MemoryStore
from workers.storage.stores import Anywhere
from workers.summaries import Pulse, RunSummary, ShardSummary, Tally


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    checkpoint = tiny_checkpoint(0)
    save_checkpoint(checkpoint.model, checkpoint.tokenizer, folder)
    return folder


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for photo in load_photos()[:4]:
        (folder / photo.name).write_bytes(photo.data)
    return folder


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def read(model, tmp_path):
    """Settings for a small run of the tiny model."""

    def read_settings(source: object, target: object, *flags: str) -> LabelSettings:
        given = ["--input", str(source), "--output", str(target), "--model", str(model)]
        given += ["--model-cache", str(tmp_path / "cache"), "--decoding.max-new-tokens", "8"]
        given += ["--num-gpus-per-replica", "0", "--reading.records-per-shard", "2"]
        if "--instruction" not in flags:
            given += ["--instruction", "the dog"]
        return settle_hardware(LabelSettings.from_everywhere([*given, *flags], "label"))

    return read_settings


def silent(_: str) -> None:
    pass


def label_here(settings: LabelSettings, most: int | None = None) -> list[str]:
    """What replicas do, in this process and without Ray; returns what the model was asked."""
    run = plan_run(settings, silent)
    bench = lay_out_bench(driver._assign(run, silent), lambda *_: None)
    asked: list[str] = []
    answer = bench.batcher._answer

    def noted(samples):
        asked.extend(text for sample in samples for text in sample.questions)
        return answer(samples)

    bench.batcher._answer = noted

    async def label_all() -> None:
        await asyncio.gather(*(label_shard(shard, bench) for shard in run.todo[:most]))

    asyncio.run(label_all())
    bench.threads.shutdown()
    return asked


def finish(settings: LabelSettings) -> RunSummary:
    """The end of a run whose shards are all committed."""
    return label_run(plan_run(settings, silent), Progress(io.StringIO()))


def table(output: Path) -> list[LabelRow]:
    store = Anywhere()
    return list(read_rows(store, str(output), current_commits(store, str(output))))


def files(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_the_same_command_finds_its_own_run_again(read, photos, output):
    label_here(read(photos, output))
    run = plan_run(read(f"{photos}/", output, "--replica.batch-questions", "3"), silent)
    assert run.todo == []
    assert len(run.committed) == len(run.shards) > 1


@pytest.mark.parametrize(
    "flags",
    [
        ("--instruction", "the cat"),
        ("--decoding.max-new-tokens", "9"),
        ("--reading.max-image-pixels", "5"),
        ("--reading.fields.image", "photo"),
        ("--reading.roots", "/elsewhere"),
    ],
)
def test_other_rows_are_another_run(read, photos, output, flags):
    first = plan_run(read(photos, output), silent)
    second = plan_run(read(photos, output, *flags), silent)
    assert first.ledger.run_id != second.ledger.run_id
    assert [s.shard_id for s in first.shards] == [s.shard_id for s in second.shards]


def test_another_instruction_costs_only_its_own_answers(read, photos, output):
    label_here(read(photos, output))
    label_run(plan_run(read(photos, output), silent), Progress(io.StringIO()))
    known = {row.item_id: row.created_at for row in table(output)}
    more = read(photos, output, "--instruction", "the dog", "--instruction", "the cat")
    label_here(more)
    summary = label_run(plan_run(more, silent), Progress(io.StringIO()))
    rows = {row.item_id: row for row in table(output)}
    assert len(rows) == 8
    assert {key: rows[key].created_at for key in known} == known
    assert {row.run_id for row in rows.values()} == {summary.run_id}


def test_a_dry_run_writes_nothing_and_lists_what_is_left(read, photos, output):
    run = plan_run(read(photos, output, "--dry-run"), silent)
    assert not output.exists()
    text = describe_plan(run)
    assert f"{len(run.shards)} shards, {len(run.shards)} to do" in text
    assert all(f"{shard.shard_id}  to do" in text for shard in run.shards)
    label_here(read(photos, output))
    text = describe_plan(plan_run(read(photos, output, "--dry-run"), silent))
    assert f"{len(run.shards)} shards, 0 to do" in text
    assert text.count("committed") == len(run.shards)


def test_when_all_is_committed_the_run_is_finished_without_ray_and_then_left_alone(
    read, photos, output
):
    label_here(read(photos, output))
    settings = read(photos, output)
    summary = label_run(plan_run(settings, silent), Progress(io.StringIO()))
    assert summary.exit_code == 0
    assert sum(summary.counts.values()) == 4
    (manifest,) = manifests(Anywhere(), str(output))
    assert (manifest.rows, manifest.run_id) == (4, summary.run_id)
    before = files(output)
    told = io.StringIO()
    assert label_run(plan_run(settings, silent), Progress(told)).exit_code == 0
    assert "nothing to do" in told.getvalue()
    assert files(output) == before


def test_an_output_inside_the_input_is_no_input(read, photos):
    label_here(read(photos, photos / "labels"))
    assert plan_run(read(photos, photos / "labels"), silent).todo == []


def test_an_output_that_is_the_input_is_no_input(read, photos):
    label_here(read(photos, photos))
    run = plan_run(read(photos, photos), silent)
    assert run.todo == []
    assert sum(shard.count for shard in run.shards) == 4


def test_a_list_may_name_images_anywhere_in_the_input(read, photos, output, tmp_path):
    lists = photos / "lists"
    lists.mkdir()
    names = [f"../{photo.name}" for photo in load_photos()[:3]] + ["/etc/passwd"]
    lines = [json.dumps({"image": name}) for name in names]
    (lists / "a.jsonl").write_text("\n".join(lines))
    settings = read(photos, output)
    label_here(settings)
    label_run(plan_run(settings, silent), Progress(io.StringIO()))
    rows = list(read_rows(Anywhere(), str(output), current_commits(Anywhere(), str(output))))
    assert Counter(row.error_code for row in rows) == {None: 3, "image_refused": 1}


def test_an_input_in_one_store_and_an_output_in_another_are_one_run(read, photos, output, bucket):
    store = Anywhere()
    for path in photos.iterdir():
        store.put(f"s3://{bucket}/in/{path.name}", path.read_bytes())
        store.put(f"s3://{bucket}/in/{path.stem}.txt", b"the red, round thing")
    settings = read(f"s3://{bucket}/in", output)
    label_here(settings)
    label_run(plan_run(settings, silent), Progress(io.StringIO()))
    rows = table(output)
    assert {(row.instruction, row.error_code) for row in rows} == {("the red, round thing", None)}


def test_where_nothing_is_asked_nothing_is_begun(read, photos, output):
    with pytest.raises(PlanError, match=r"nothing is asked of the images.*--instruction"):
        plan_run(read(photos, output).model_copy(update={"instruction": ()}), silent)
    assert not (output / "_commits").exists()


def test_images_that_nothing_is_asked_of_are_told_of_before_the_run(read, photos, output):
    first = sorted(photos.iterdir())[0]
    first.with_suffix(".txt").write_text("the cat\n")
    told: list[str] = []
    unasked = read(photos, output).model_copy(update={"instruction": ()})
    plan_run(unasked, told.append)
    (line,) = [line for line in told if "instruction" in line]
    assert line.startswith("3 of 4 images come without an instruction and will be rejected")
    told.clear()
    plan_run(read(photos, output), told.append)
    assert not [line for line in told if "rejected" in line]


def test_instructions_of_a_folder_are_asked_of_all_its_images(read, photos, output):
    (photos / "_instructions.txt").write_text("the cat\n")
    told: list[str] = []
    plan_run(read(photos, output).model_copy(update={"instruction": ()}), told.append)
    assert not [line for line in told if "rejected" in line]


def test_images_beside_a_list_are_told_of(read, photos, output):
    (photos / "list.jsonl").write_text('{"image": "a.jpg"}\n')
    told: list[str] = []
    plan_run(read(photos, output), told.append)
    (line,) = [line for line in told if "list records" in line]
    assert line.startswith("4 images beside files that list records: labelled where")


def test_an_input_without_anything_is_told(read, output, tmp_path):
    with pytest.raises(PlanError, match="there is no file or folder"):
        plan_run(read(tmp_path / "nothing", output), silent)
    assert not output.exists()


def test_a_model_that_is_not_there_is_told_before_anything_is_begun(read, photos, output):
    with pytest.raises(SettingsError, match="no such folder"):
        plan_run(read(photos, output, "--model", "/nowhere"), silent)


# ---- looking at every image again ----


@pytest.fixture
def listed(photos) -> Path:
    """A list of photos, one of which is not there."""
    names = [path.name for path in sorted(photos.iterdir())]
    shutil.move(photos / names[0], photos.parent / names[0])
    lines = [json.dumps({"image": f"in/{name}"}) for name in names]
    (photos.parent / "list.jsonl").write_text("\n".join(lines))
    return photos.parent / "list.jsonl"


def test_a_refresh_asks_what_was_replaced_or_missing_and_nothing_else(read, listed, output):
    settings = read(listed, output)
    assert len(label_here(settings)) == 3
    first = finish(settings)
    before = {row.image_uri: row for row in table(output)}
    assert Counter(row.error_code for row in before.values()) == {None: 3, "image_missing": 1}
    photos, images = listed.parent / "in", sorted(before)
    shutil.move(listed.parent / Path(images[0]).name, photos)
    Path(images[1]).write_bytes(load_photos()[6].data)
    assert plan_run(settings, silent).todo == []  # the plan is about the list, which is the same
    fresh = read(listed, output, "--refresh")
    assert len(label_here(fresh)) == 2
    second = finish(fresh)
    after = {row.image_uri: row for row in table(output)}
    assert second.run_id != first.run_id
    assert {row.status for row in after.values()} <= {"ok", "empty", "partial"}
    assert after[images[1]].image_sha256 != before[images[1]].image_sha256
    assert [after[uri].created_at == before[uri].created_at for uri in images] == [
        *(False, False),
        *(True, True),
    ]


def test_a_refresh_asks_again_what_the_model_failed_on(read, photos, output, monkeypatch):
    def fail(*_):
        raise RuntimeError("no luck")

    settings = read(photos, output)
    with monkeypatch.context() as unlucky:
        unlucky.setattr("pixellm.engine.Engine.answer", fail)
        label_here(settings)
    assert finish(settings).counts == {"failed": 4}
    assert label_here(settings) == []
    fresh = read(photos, output, "--refresh")
    assert len(label_here(fresh)) >= 4
    assert "failed" not in finish(fresh).counts


def test_a_refresh_goes_on_where_it_was_killed_and_the_next_one_is_another(read, photos, output):
    settings, fresh = read(photos, output), read(photos, output, "--refresh")
    label_here(settings)
    ids = [finish(settings).run_id]
    for _ in range(2):
        label_here(fresh, most=1)
        killed = plan_run(fresh, silent)
        assert len(killed.committed) == 1
        assert len(killed.todo) == len(killed.shards) - 1 > 0
        assert label_here(fresh) == []  # all is taken over
        ids.append(finish(killed.settings).run_id)
        assert ids[-1] == killed.ledger.run_id
    assert len(set(ids)) == 3
    assert {row.run_id for row in table(output)} == {ids[-1]}


def test_after_a_refresh_the_plain_command_goes_on_with_it(read, photos, output):
    settings, fresh = read(photos, output), read(photos, output, "--refresh")
    label_here(settings)
    finish(settings)
    label_here(fresh)
    refreshed = finish(fresh)
    assert plan_run(settings, silent).todo == []
    (photos / "zzz.jpg").write_bytes(load_photos()[6].data)
    assert len(label_here(settings)) == 1
    assert finish(settings).run_id == refreshed.run_id
    assert len(table(output)) == 5


def test_a_refresh_of_nothing_is_the_run_itself(read, photos, output):
    settings, fresh = read(photos, output), read(photos, output, "--refresh")
    label_here(settings, most=1)  # killed before its end
    run = plan_run(fresh, silent)
    assert run.ledger.run_id == plan_run(settings, silent).ledger.run_id
    assert len(run.committed) == 1
    # what others have finished in the same output is not refreshed
    other = read(photos, output, "--instruction", "the cat")
    label_here(other)
    finish(other)
    assert plan_run(fresh, silent).ledger.run_id == run.ledger.run_id


def test_a_deleted_image_leaves_the_table(read, photos, output):
    settings = read(photos, output)
    label_here(settings)
    label_run(plan_run(settings, silent), Progress(io.StringIO()))
    gone = next(iter(photos.iterdir()))
    gone.unlink()
    label_here(settings)
    label_run(plan_run(settings, silent), Progress(io.StringIO()))
    rows = table(output)
    assert len(rows) == 3
    assert str(gone) not in {row.image_uri for row in rows}


def test_a_folder_that_was_moved_is_another_run(read, photos, output, tmp_path):
    label_here(read(photos, output))
    moved = Path(shutil.move(photos, tmp_path / "moved"))
    assert len(plan_run(read(moved, output), silent).todo) > 1


def test_a_store_without_conditional_writes_is_told_with_what_that_means(read, photos, output):
    run = plan_run(read(photos, output), silent)
    told: list[str] = []
    assert driver._assign(run, told.append).guarantee is Guarantee.EXACTLY_ONCE
    assert told == []
    careless = MemoryStore(honours_conditions=False)
    ledger = Ledger(careless, "mem://b/out", run.ledger.run_id)
    assignment = driver._assign(replace(run, ledger=ledger), told.append)
    assert assignment.guarantee is Guarantee.AT_LEAST_ONCE
    (text,) = told
    assert text.startswith("'mem://b/out' has no conditional writes, so every shard is committed")
    assert "at least once, not exactly once: no row is lost or doubled, but where two" in text
    assert text.endswith("Do not start the same command twice at a time")


# ---- what comes back from the replicas ----


@pytest.fixture
def work_through(read, photos, output, monkeypatch):
    """A start whose replicas, in the place of Ray, give these summaries; what it made of them."""

    def work(*summaries: ShardSummary | BaseException) -> tuple[RunSummary, str, int]:
        given = []

        def replicas(shards, assignment, progress):
            for each in summaries:
                given.append(each)
                if isinstance(each, BaseException):
                    raise each
                yield each

        monkeypatch.setattr("workers.pool.label_on_ray", replicas)
        told = io.StringIO()
        made = label_run(plan_run(read(photos, output), silent), Progress(told))
        return made, told.getvalue(), len(given)

    return work


def test_a_shard_that_fails_like_all_others_ends_the_run_at_once(work_through):
    full = ShardSummary("a", error="the output can't be written", ends_run=True)
    made, told, given = work_through(full, *[summary(n) for n in range(9)])
    assert given == 1
    assert told.count("the output can't be written") == 1
    assert "the run ends here" in told
    assert made.exit_code == 1


def test_so_many_shards_that_fail_in_a_row_end_the_run_and_one_less_does_not(work_through):
    most = driver.FAILED_IN_A_ROW
    failed = [ShardSummary(f"{n}", error="away") for n in range(most)]
    _, told, given = work_through(*failed, summary(1))
    assert (given, "the run ends here" in told) == (most, True)
    some = failed[1:]
    _, told, given = work_through(*some, summary(1), *some, summary(2))
    assert (given, "the run ends here" in told) == (2 * most, False)


def test_a_run_that_is_stopped_tells_so_and_what_is_left(work_through, read, photos, output):
    first, *_ = plan_run(read(photos, output), silent).shards
    failed = ShardSummary(first.shard_id, error="gone")
    made, told, _ = work_through(failed, KeyboardInterrupt())
    assert (made.stopped, made.exit_code) == (True, 130)
    assert "stopped; what is committed is kept" in told
    why = list(made.failures.values())
    assert made.failures[first.shard_id] == "gone"
    assert why.count(driver.NOT_REACHED) == len(why) - 1 > 0


def test_what_replicas_committed_and_could_not_tell_is_in_the_sums(
    read, photos, output, monkeypatch
):
    settings = read(photos, output)

    def replicas(shards, assignment, progress):
        label_here(settings, most=1)
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("workers.pool.label_on_ray", replicas)
    label_here(settings, most=1)  # by an earlier start
    ledger = plan_run(settings, silent).ledger
    before = ledger.committed_ids()
    made = label_run(plan_run(settings, silent), Progress(io.StringIO()))
    (unheard,) = ledger.committed_ids() - before
    assert (made.found_committed, len(made.failures)) == (1, made.shards - 2)
    assert made.counts == ledger.get(unheard).counts


# ---- what the user sees ----


def summary(number: int, **more) -> ShardSummary:
    values = {"rows": 4, "counts": {"ok": 3, "failed": 1}, "targets": 6, "records": 2, **more}
    return ShardSummary(f"{number:020}", **values)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_tells_shards_pace_failures_and_the_time_left():
    progress = Progress(io.StringIO())
    with progress.running(8):
        progress.add(summary(1))
        progress.add(summary(2, counts={"rejected_input": 4}))
        text = progress.line(seconds=4.0)
    assert text == (
        "2/8 shards  4 records  1.0 records/s  3.0 targets/s  4 rejected  1 failed  12 s left"
    )


def test_the_line_counts_records_of_shards_that_are_under_way():
    progress = Progress(io.StringIO())
    with progress.running(8, records=20):
        progress.hear(Pulse(replicas=1, records=5))
        text = progress.line(seconds=5.0)
        assert text.startswith("0/8 shards  5/20 records  1.0 records/s  0.0 targets/s")
        assert text.endswith("15 s left")
        progress.hear(Pulse(replicas=1, records=0))  # its book was lost with a machine
        progress.add(summary(1))
        assert progress.line(seconds=5.0).startswith("1/8 shards  2/20 records  0.4 records/s")


def test_the_pace_counts_from_the_first_replica_that_is_ready(monkeypatch):
    now = 0.0
    monkeypatch.setattr("workers.progress.time.monotonic", lambda: now)
    told = io.StringIO()
    progress = Progress(told)
    progress.hear(Pulse(replicas=0, records=0))
    now = 30.0
    progress.hear(Pulse(replicas=1, records=0))
    now = 40.0
    progress.hear(Pulse(replicas=2, records=0))
    assert told.getvalue().splitlines() == [
        "label: the first replica has loaded the model, after 30 s"
    ]
    assert progress._started == 30.0


def test_records_are_counted_before_the_run_where_the_plan_knows_them():
    shard = Shard("a", ShardKind.JSONL, "u", "u", "e", 1)
    counted_shard = replace(shard, count=3)
    assert driver._count_records([counted_shard, counted_shard]) == 6
    assert driver._count_records([counted_shard, shard]) is None


def test_a_failed_shard_is_told_at_once_and_counted():
    told = io.StringIO()
    progress = Progress(told)
    with progress.running(3):
        progress.add(ShardSummary("a" * 20, error="the store is down"))
    assert f"shard {'a' * 20} failed: the store is down" in told.getvalue()
    assert "1/3 shards" in told.getvalue()
    assert "1 failed" in told.getvalue()


def test_a_terminal_gets_one_line_that_is_written_over():
    told = Terminal()
    progress = Progress(told)
    with progress.running(2):
        with progress._lock:
            progress._show()
        progress.say("something happened")
        progress.add(summary(1))
    text = told.getvalue()
    assert text.count("\n") == 2
    assert "\rlabel: something happened\n" in text
    assert text.endswith("\n")


def test_a_log_gets_whole_lines_only():
    told = io.StringIO()
    with Progress(told).running(2):
        pass
    assert "\r" not in told.getvalue()
    assert told.getvalue().startswith("label: 0/2 shards")


@pytest.mark.parametrize(
    ("failures", "stopped", "code"),
    [({}, False, 0), ({"a": "x"}, False, 1), ({"a": "x"}, True, 130)],
)
def test_the_exit_code_tells_whether_all_is_committed(failures, stopped, code):
    assert make_run(failures=failures, stopped=stopped).exit_code == code


def make_run(**more) -> RunSummary:
    values = {
        "run_id": "label-1",
        "output": "s3://b/out",
        "shards": 9,
        "found_committed": 2,
        "counts": {"ok": 1200, "empty": 3},
        "errors": {},
        "targets": 2000,
        "reused": 7,
        "seconds": 3725.0,
        "batch_fill": 0.875,
        "failures": {},
        **more,
    }
    return RunSummary(**values)


def test_the_summary_tells_counts_and_where_the_labels_are():
    text = describe_run(make_run(failures={f"{n}": "no room" for n in range(7)}))
    assert "2 of 9 committed, 2 of them before this start" in text
    assert "1,203" in text
    assert "1 h 02 min; the model's batches were 88% full" in text
    assert "reused     7 of the rows, from earlier runs" in text
    assert "reused" not in describe_run(make_run(reused=0))
    assert "'s3://b/out'" in text
    assert text.count("no room") == 5
    assert "and 2 more" in text
    assert "not done" not in describe_run(make_run())


def test_the_summary_tells_why_rows_have_no_answer_the_commonest_first():
    errors = {"image_broken": 2, "image_missing": 1000, "model_failed": 1}
    text = describe_run(make_run(errors=errors))
    assert "reasons    image_missing 1,000, image_broken 2, model_failed 1\n" in text
    many = {f"reason_{number}": 9 - number for number in range(7)}
    assert "reason_4 5, 2 more\n" in describe_run(make_run(errors=many))
    assert "reasons" not in describe_run(make_run())


def test_rows_of_an_unfinished_run_are_said_to_be_those_of_this_start():
    unfinished = describe_run(make_run(failures={"a": "no room"}))
    assert "1,203 in the shards that this start committed" in unfinished
    assert "this start committed" not in describe_run(make_run())


def test_batches_are_told_of_when_there_were_any():
    assert "1 h 02 min\n" in describe_run(make_run(batch_fill=0.0))
    assert "batches" not in describe_run(make_run(batch_fill=0.0))
    tally = Tally()
    for each in (summary(1, batch_fill=0.5), ShardSummary("a", error="no"), summary(2)):
        tally.add(each)
    assert tally.batch_fill == 0.5
