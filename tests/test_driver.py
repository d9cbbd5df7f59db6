import asyncio
import io
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pixellm.digests import adapter_sha256
from pixellm.learners import Tuning
from tests.here import replicas_here
from tests.photos import load_photos
from tests.same import assert_same_rows
from tests.test_tuning import learned
from workers import driver
from workers.driver import label_run, label_runs
from workers.engines import load_engine
from workers.errors import (
    AccessDenied,
    CommitError,
    OutputUnwritable,
    PlanError,
    SettingsError,
    StorageUnavailable,
)
from workers.hardware import settle_hardware
from workers.labeller import label_shard
from workers.labels.commits import Guarantee, Ledger
from workers.labels.manifests import current_commits, manifests
from workers.labels.parts import read_rows
from workers.labels.schema import LabelRow
from workers.open_run import OpenRun
from workers.progress import Progress
from workers.prospects import FAILED_IN_A_ROW
from workers.runs import describe_plan, plan_run
from workers.settings import SHIPPED_MODEL, LabelSettings
from workers.shards.kinds import ShardKind
from workers.shards.plan import Shard
from workers.stopping import Stop
from workers.storage.memory import MemoryStore
from workers.storage.stores import Anywhere
from workers.summaries import RunSummary, ShardSummary
from workers.workbench import lay_out_benches


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
def read(tiny_model, tmp_path):
    """Settings for a small run of the tiny model."""

    def read_settings(source: object, target: object, *flags: str) -> LabelSettings:
        given = ["--input", str(source), "--output", str(target), "--model", str(tiny_model)]
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
    engine = load_engine(settings, run.identity)
    (bench,) = lay_out_benches([OpenRun(run).assign()], engine).values()
    asked: list[str] = []
    add = engine.add

    def noted(sample):
        asked.extend(sample.questions)
        return add(sample)

    engine.add = noted

    async def label_all() -> None:
        await asyncio.gather(*(label_shard(shard, bench) for shard in run.todo[:most]))

    asyncio.run(label_all())
    bench.model.close(20)
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
    assert not run.todo
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


def test_another_adapter_labels_again_and_the_same_one_has_nothing_to_do(
    read, photos, output, tmp_path, monkeypatch
):
    adapters = [("--adapter", f"{tmp_path}/{rank}") for rank in (2, 4)]
    for rank, (_, folder) in zip((2, 4), adapters, strict=True):
        learned(Tuning(rank=rank)).save_adapter(Path(folder))
    assert label_here(read(photos, output, *adapters[0]))
    finish(read(photos, output, *adapters[0]))
    digests = {row.adapter_sha256 for row in table(output)}
    assert digests == {adapter_sha256(tmp_path / "2")}
    (manifest,) = manifests(Anywhere(), str(output))
    assert (manifest.adapter_sha256, manifest.model_sha256) == (
        *digests,
        table(output)[0].model_sha256,
    )
    monkeypatch.setattr("workers.runs._told", set())
    told = []
    for flags, done in ((adapters[0], True), (adapters[1], False), ((), False)):
        run = plan_run(read(photos, output, *flags), told.append)
        assert len(run.todo) == (0 if done else len(run.shards))
    named = [line for line in told if line.endswith(f" and the adapter '{tmp_path}/2'")]
    assert len(named) == 1


def test_an_output_inside_the_input_is_no_input(read, photos):
    label_here(read(photos, photos / "labels"))
    assert not plan_run(read(photos, photos / "labels"), silent).todo


def test_an_output_that_is_the_input_is_no_input(read, photos):
    label_here(read(photos, photos))
    run = plan_run(read(photos, photos), silent)
    assert not run.todo
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


def test_a_model_is_named_once_for_all_that_a_process_plans(read, photos, output, monkeypatch):
    monkeypatch.setattr("workers.runs._told", set())
    shipped = read(photos, output).model_copy(update={"model": None})
    told: list[str] = []
    for name in "ab":
        plan_run(shipped.model_copy(update={"output": f"{output}/{name}"}), told.append)
    (line,) = [line for line in told if line.startswith("identifying")]
    assert line.startswith(f"identifying the model '{SHIPPED_MODEL}', the small model of the")
    assert sum(f"in '{photos}'" in line for line in told) == 2
    plan_run(other := read(photos, output), told.append)
    (_, line) = [line for line in told if line.startswith("identifying")]
    assert line == f"identifying the model '{other.model}'"


@pytest.mark.parametrize(("names", "known"), [("a", True), ("ab", False)])
def test_lines_of_a_start_name_the_run_that_it_is_about(read, photos, output, names, known):
    inputs = [shutil.copytree(photos, photos.with_name(name)) for name in names]
    runs = [plan_run(read(each, output / each.name), silent) for each in inputs]
    progress = Progress(told := io.StringIO())
    progress.speak_json()

    def replicas(errands, settings, begin, progress, stop):
        progress.say("starting a replica")
        yield from replicas_here(errands, settings, begin, progress, stop)

    list(label_runs(runs, progress, replicas=replicas))
    progress.say("waiting for more")
    lines = [json.loads(line) for line in told.getvalue().splitlines()]
    of = {line["message"]: line.get("run") for line in lines}
    assert of["starting a replica"] == (runs[0].ledger.run_id if known else None)
    assert of["waiting for more"] is None


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
    assert not plan_run(settings, silent).todo  # the plan is about the list, which is the same
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
        unlucky.setattr("pixellm.engine.engine.Engine.step", fail)
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
    assert not plan_run(settings, silent).todo
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
    OpenRun(run).probe(told.append)
    assert OpenRun(run).assign().guarantee is Guarantee.EXACTLY_ONCE
    assert told == []
    careless = MemoryStore(honours_conditions=False)
    ledger = Ledger(careless, "mem://b/out", run.ledger.run_id)
    careful = replace(run, ledger=ledger)
    OpenRun(careful).probe(told.append)
    assert OpenRun(careful).assign().guarantee is Guarantee.AT_LEAST_ONCE
    (text,) = told
    assert text.startswith("'mem://b/out' has no conditional writes, so every shard is committed")
    assert "at least once, not exactly once: no row is lost or doubled, but where two" in text
    assert text.endswith("Do not start the same command twice at a time")


# ---- what comes back from the replicas ----


@pytest.fixture
def work_through(read, photos, output):
    """A start whose replicas, in the place of Ray, give these summaries; what it made of them."""

    def work(*summaries: ShardSummary | BaseException) -> tuple[RunSummary, str, int]:
        given, run = [], plan_run(read(photos, output), silent)

        def replicas(errands, settings, begin, progress, stop):
            for each in summaries:
                given.append(each)
                if isinstance(each, BaseException):
                    raise each
                yield replace(each, run_id=run.ledger.run_id)

        made = label_run(run, Progress(told := io.StringIO()), replicas=replicas)
        return made, told.getvalue(), len(given)

    return work


def test_a_shard_that_fails_like_all_others_ends_the_run_at_once(
    work_through, read, photos, output
):
    first, *_ = plan_run(read(photos, output), silent).shards
    why = "the output can't be written"
    full = ShardSummary("run", first.shard_id, error=why, ends_run=True)
    done = [ShardSummary("run", f"done-{n}") for n in range(9)]
    made, told, given = work_through(full, *done)
    assert given == 1
    assert told.count("the output can't be written") == 1
    assert "the run ends here" in told
    assert made.exit_code == 1


def test_a_shard_that_is_told_of_twice_is_counted_once(work_through, read, photos, output):
    """A replica may die behind its words, and another one says them again."""
    first, *_ = plan_run(read(photos, output), silent).shards
    once = ShardSummary("run", first.shard_id, records=1, counts={"ok": 1}, rows=1)
    made, told, given = work_through(once, once)
    assert (given, made.records) == (2, 1)
    assert "1/4 shards  1/4 records" in told


def test_so_many_shards_that_fail_in_a_row_end_the_run_and_one_less_does_not(work_through):
    most = FAILED_IN_A_ROW
    failed = [ShardSummary("run", f"{n}", error="away") for n in range(most)]
    _, told, given = work_through(*failed, ShardSummary("run", "done-1"))
    assert (given, "the run ends here" in told) == (most, True)
    some = failed[1:]
    done = [ShardSummary("run", f"done-{n}") for n in (1, 2)]
    _, told, given = work_through(*some, done[0], *some, done[1])
    assert (given, "the run ends here" in told) == (2 * most, False)


def test_a_run_that_is_stopped_tells_so_and_what_is_left(work_through, read, photos, output):
    run = plan_run(read(photos, output), silent)
    first, *_ = run.shards
    failed = ShardSummary(run.ledger.run_id, first.shard_id, error="gone")
    made, told, _ = work_through(failed, KeyboardInterrupt())
    assert (made.interrupted, made.exit_code) == (True, 130)
    assert "stopped; what is committed is kept" in told
    why = list(made.failures.values())
    assert made.failures[first.shard_id] == "gone"
    assert why.count(driver.NOT_REACHED) == len(why) - 1 > 0


def test_what_replicas_committed_and_could_not_tell_is_in_the_sums(read, photos, output):
    settings = read(photos, output)

    def replicas(errands, settings, begin, progress, stop):
        label_here(settings, most=1)
        raise KeyboardInterrupt
        yield

    label_here(settings, most=1)  # by an earlier start
    ledger = plan_run(settings, silent).ledger
    before = ledger.committed_ids()
    made = label_run(plan_run(settings, silent), Progress(io.StringIO()), replicas=replicas)
    (unheard,) = ledger.committed_ids() - before
    assert (made.found_committed, len(made.failures)) == (1, made.shards - 2)
    assert made.counts == ledger.get(unheard).counts


def test_what_was_told_and_then_the_run_ends_is_in_the_sums_once(read, photos, output):
    settings = read(photos, output)
    label_here(settings, most=1)
    run = plan_run(settings, silent)
    (done,) = run.committed
    commit, later = run.ledger.get(done), replace(run, committed=frozenset())
    sums = {name: getattr(commit, name) for name in ("rows", "counts", "errors", "targets")}
    heard = ShardSummary(run_id=run.ledger.run_id, shard_id=done, records=2, **sums)
    for said in (heard, ShardSummary(run.ledger.run_id, done, error="its worker died")):

        def replicas(*_, said=said):
            yield said
            raise KeyboardInterrupt

        made = label_run(later, Progress(io.StringIO()), replicas=replicas)
        assert made.counts == commit.counts  # also where another worker had committed it
        assert done not in made.failures


def test_records_are_counted_before_the_run_where_the_plan_knows_them():
    shard = Shard("a", ShardKind.JSONL, "u", "u", "e", 1)
    counted_shard = replace(shard, count=3)
    assert driver._count_records([counted_shard, counted_shard]) == 6
    assert driver._count_records([counted_shard, shard]) is None


# ---- several runs in one go, and an end before the end ----


def test_runs_that_are_labelled_together_end_as_each_would_alone(read, photos, output, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    (other / "extra.jpg").write_bytes(load_photos()[5].data)
    one = ("--replica.batch-questions", "1")  # then not even the last digit depends on company
    together = [
        plan_run(read(source, output / name, *one), silent)
        for source, name in ((photos, "a"), (other, "b"))
    ]
    made = list(label_runs(together, Progress(io.StringIO()), replicas=replicas_here))
    assert [(each.exit_code, each.records) for each in made] == [(0, 4), (0, 5)]
    for source, name in ((photos, "a"), (other, "b")):
        alone = read(source, output / f"{name} alone", *one)
        label_here(alone)
        finish(alone)
        assert_same_rows(table(output / name), table(output / f"{name} alone"))


def test_two_runs_over_the_same_input_are_labelled_together_too(read, photos, output):
    one = ("--replica.batch-questions", "1")
    asked = {name: ("--instruction", f"the {name}", *one) for name in ("dog", "cat")}
    runs = [plan_run(read(photos, output / name, *asked[name]), silent) for name in asked]
    shards = [[shard.shard_id for shard in run.shards] for run in runs]
    assert shards[0] == shards[1]
    told = io.StringIO()
    made = list(label_runs(runs, Progress(told), replicas=replicas_here))
    assert [(each.exit_code, each.records) for each in made] == [(0, 4), (0, 4)]
    both = 2 * len(shards[0])
    assert f"{both}/{both} shards" in told.getvalue()
    for name in asked:
        alone = read(photos, output / f"{name} alone", *asked[name])
        label_here(alone)
        finish(alone)
        assert_same_rows(table(output / name), table(output / f"{name} alone"))


def test_a_run_is_finished_as_soon_as_it_is_whole(read, photos, output, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    places = ((photos, output / "a"), (other, output / "b"))
    runs = [plan_run(read(*each), silent) for each in places]
    told = label_runs(runs, Progress(io.StringIO()), replicas=replicas_here)
    first = next(told)
    assert first.run_id == runs[0].ledger.run_id
    assert manifests(Anywhere(), str(output / "a"))
    assert runs[1].ledger.committed_ids() == set()  # and not once all of them are
    assert next(told).run_id == runs[1].ledger.run_id


def test_a_shard_that_is_told_again_when_its_run_is_finished_counts_once(
    read, photos, output, tmp_path
):
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    runs = [
        plan_run(read(source, output / name), silent)
        for source, name in ((photos, "a"), (other, "b"))
    ]
    progress, told = Progress(io.StringIO()), 0

    def replicas(*given):
        nonlocal told
        last = None
        for summary in replicas_here(*given):
            yield summary
            told += 1
            if last is not None and last.run_id != summary.run_id:  # that run is finished
                yield from [last] * 3
            last = summary

    made = list(label_runs(runs, progress, replicas=replicas))
    assert told == sum(len(run.shards) for run in runs) == progress.tally.done
    assert progress.tally.records == sum(each.records for each in made)


def test_a_run_that_ends_early_on_purpose_tells_why_and_the_next_start_does_the_rest(
    read, photos, output
):
    stop = Stop()

    def replicas(errands, settings, begin, progress, stop):
        yield next(replicas_here(errands, settings, begin, progress, Stop()))
        stop.ask("the deadline has come")

    settings = read(photos, output)
    told = io.StringIO()
    made = label_run(plan_run(settings, silent), Progress(told), stop, replicas)
    assert (made.exit_code, made.stopped) == (3, "the deadline has come")
    assert set(made.failures.values()) == {f"{driver.NOT_REACHED}: the deadline has come"}
    assert "the deadline has come: what is committed is kept" in told.getvalue()
    made = label_run(plan_run(settings, silent), Progress(told), replicas=replicas_here)
    assert (made.exit_code, made.found_committed) == (0, 1)


def test_shards_whose_turn_comes_after_the_end_are_left_and_counted_nowhere(read, photos, output):
    def replicas(errands, settings, begin, progress, stop):
        stop.ask("the deadline has come")
        for each in errands:
            yield ShardSummary(*each.key, not_begun=True)

    told = io.StringIO()
    run = plan_run(read(photos, output), silent)
    made = label_run(run, Progress(told), Stop(), replicas)
    assert (made.exit_code, made.stopped) == (3, "the deadline has come")
    assert set(made.failures.values()) == {f"{driver.NOT_REACHED}: the deadline has come"}
    assert f"0/{len(run.shards)} shards" in told.getvalue()


def test_what_is_to_stop_before_it_begins_starts_no_replica(read, photos, output):
    stop, told = Stop(), io.StringIO()
    stop.ask("asked to end")

    def replicas(*_):
        raise AssertionError("nothing is to be begun")

    run = plan_run(read(photos, output), silent)
    made = label_run(run, Progress(told), stop, replicas)
    assert (made.exit_code, made.stopped, made.records) == (3, "asked to end", 0)
    assert "asked to end: what is committed is kept, the same command does the rest" in (
        told.getvalue()
    )


def test_a_reason_to_stop_that_comes_when_all_is_done_is_none(read, photos, output):
    stop = Stop()

    def replicas(errands, settings, begin, progress, stop):
        yield from replicas_here(errands, settings, begin, progress, Stop())
        stop.ask("the deadline has come")

    made = label_run(
        plan_run(read(photos, output), silent), Progress(io.StringIO()), stop, replicas
    )
    assert (made.exit_code, made.stopped) == (0, "")


def test_an_output_that_is_away_for_the_moment_is_not_taken_for_one_that_refuses(
    read, photos, output, monkeypatch
):
    def away(_):
        raise StorageUnavailable("the bucket is away")

    monkeypatch.setattr(Ledger, "probe", away)
    run = plan_run(read(photos, output), silent)
    with pytest.raises(StorageUnavailable):  # a watcher waits for it
        label_run(run, Progress(io.StringIO()), replicas=replicas_here)


# ---- what is wrong with one run among several ----


@pytest.fixture
def three(read, photos, output, tmp_path) -> list[LabelSettings]:
    """Three inputs, the first and the last of which are labelled already."""
    made = []
    for name in "abc":
        shutil.copytree(photos, tmp_path / name)
        made.append(read(tmp_path / name, output / name))
    for each in (made[0], made[2]):
        label_here(each)
        finish(each)
    (tmp_path / "a" / "extra.jpg").write_bytes(load_photos()[5].data)
    return made


def together(settings: list[LabelSettings]) -> dict[str, RunSummary]:
    runs = [plan_run(each, silent) for each in settings]
    made = list(label_runs(runs, Progress(io.StringIO()), replicas=replicas_here))
    assert Path(made[-1].output).name == "b"  # whose labels take time: the others wait for none
    return {Path(each.output).name: each for each in made}


def check_that_only_the_first_is_in_trouble(made: dict[str, RunSummary], why: str) -> None:
    assert why in f"{made['a'].trouble}"
    assert made["a"].exit_code == 1
    assert [(made[name].exit_code, made[name].trouble) for name in "bc"] == [(0, None)] * 2


def test_a_table_that_is_damaged_keeps_no_other_run_from_its_labels(three, output):
    (packed,) = (output / "a" / "_runs").glob("*.gz")
    packed.write_bytes(b"nonsense")
    made = together(three)
    check_that_only_the_first_is_in_trouble(made, f"{packed.name}' is damaged or gone")
    with pytest.raises(CommitError, match="is damaged or gone"):  # and alone it ends the job
        label_run(plan_run(three[0], silent), Progress(io.StringIO()), replicas=replicas_here)
    for path in (output / "a" / "_runs").iterdir():  # as the message says
        path.unlink()
    mended = label_run(plan_run(three[0], silent), Progress(io.StringIO()), replicas=replicas_here)
    assert mended.exit_code == 0
    assert len(table(output / "a")) == 5


def test_a_marker_that_is_damaged_keeps_no_other_run_from_its_end(three, output):
    marker = next((output / "a" / "_commits").rglob("*.json"))
    marker.write_text("nonsense")
    runs = [plan_run(each, silent) for each in three]
    made = list(label_runs(runs, Progress(io.StringIO()), replicas=replicas_here))
    named = {Path(each.output).name: each for each in made}
    check_that_only_the_first_is_in_trouble(named, f"{marker.name}' is not a JSON object")
    assert (
        named["a"].failures == {}
    )  # all is committed, before or in this start; only the end is not
    marker.unlink()
    mended = label_run(plan_run(three[0], silent), Progress(io.StringIO()), replicas=replicas_here)
    assert mended.exit_code == 0
    assert len(table(output / "a")) == 5


def test_an_output_that_takes_nothing_keeps_no_other_run_from_its_labels(
    three, output, monkeypatch
):
    probe = Ledger.probe

    def refused(ledger):
        if ledger.output.endswith("/a"):
            raise AccessDenied("no such right")
        return probe(ledger)

    monkeypatch.setattr(Ledger, "probe", refused)
    check_that_only_the_first_is_in_trouble(together(three), "the output can't be written")


def test_lists_that_cannot_be_stored_keep_no_other_run_from_its_labels(three, output):
    shutil.rmtree(output / "a" / "_plans")
    (output / "a" / "_plans").write_text("a file where the folder should be")
    check_that_only_the_first_is_in_trouble(together(three), "the output can't be written")
    with pytest.raises(OutputUnwritable, match="_plans"):  # and alone it ends the job
        label_run(plan_run(three[0], silent), Progress(io.StringIO()), replicas=replicas_here)


def test_where_no_output_can_be_worked_with_no_replica_is_started(three, output):
    (packed,) = (output / "a" / "_runs").glob("*.gz")
    packed.write_bytes(b"nonsense")

    def replicas(*_):
        raise AssertionError("there is nothing to label")

    runs = [plan_run(three[0], silent)]
    (made,) = label_runs(runs, Progress(io.StringIO()), replicas=replicas)
    assert made.trouble is not None
