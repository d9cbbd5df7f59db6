import io
from dataclasses import replace

import pytest

from tests.clock import Clock
from tests.here import label_runs_here, replicas_here
from tests.photos import load_photos
from workers.driver import label_run
from workers.errors import LineError, SettingsError
from workers.hardware import settle_hardware
from workers.labels.manifests import manifests
from workers.piloting.estimate import Estimate
from workers.piloting.pilot import choose_shards, make_pilot
from workers.piloting.progress import PilotProgress
from workers.piloting.settings import PlanSettings
from workers.progress import Progress
from workers.runs import plan_run
from workers.stopping import Stop
from workers.storage.stores import Anywhere
from workers.summaries import Pulse, ShardSummary
from workers.watching.settings import WatchSettings
from workers.watching.watcher import Watcher

PHOTOS = len(load_photos())


@pytest.fixture
def settings(tiny_model, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for photo in load_photos():
        (folder / photo.name).write_bytes(photo.data)
    flags = ["--input", str(folder), "--output", str(tmp_path / "out"), "--instruction", "the dog"]
    flags += ["--model", str(tiny_model), "--model-cache", str(tmp_path / "cache")]
    flags += ["--num-gpus-per-replica", "0", "--decoding.max-new-tokens", "4"]
    flags += ["--reading.records-per-shard", "2", "--pilot-shards", "3"]
    return settle_hardware(PlanSettings.from_everywhere(flags, "plan"))


def silent(_: str) -> None:
    pass


def telling(clock: Clock, seconds: float = 30.0):
    """Replicas that answer two records in so many seconds, and say how far they are."""

    def replicas(errands, settings, begin, progress, stop):
        progress.hear(Pulse(1, 0))
        answered = 0
        for summary in replicas_here(errands, settings, begin, progress, stop):
            clock.pass_by(seconds)
            answered += summary.records
            progress.hear(Pulse(1, answered))
            yield summary

    return replicas


def test_a_pilot_labels_some_shards_and_says_what_the_rest_will_take(settings):
    clock = Clock()
    run, progress = plan_run(settings, silent), PilotProgress(clock)
    estimate = make_pilot(run, settings, progress, replicas=telling(clock))
    assert len(run.ledger.committed_ids()) == 3
    assert not manifests(Anywhere(), settings.output)  # nothing that a reader would take for all
    done = sum(progress.records.values())
    assert (estimate.records.middle, estimate.left.middle) == (PHOTOS, PHOTOS - done)
    assert estimate.rate.middle == pytest.approx(done / 90)
    assert estimate.replicas == 1
    assert Estimate.load(Anywhere(), settings.output, run.ledger.run_id) == estimate


def test_the_run_goes_on_with_what_the_pilot_has_labelled(settings):
    clock = Clock()
    make_pilot(plan_run(settings, silent), settings, PilotProgress(clock), replicas=telling(clock))
    run = plan_run(settings, silent)
    assert len(run.committed) == 3
    assert label_run(run, PilotProgress(clock), replicas=replicas_here).exit_code == 0
    assert manifests(Anywhere(), settings.output)


def test_a_watcher_goes_on_with_the_pilot_of_a_drop_in_the_drops_own_output(settings, tmp_path):
    clock, found = Clock(), []
    friday = {"input": f"{tmp_path}/in/friday", "output": f"{tmp_path}/out/friday"}
    (tmp_path / "in" / "friday").mkdir()
    for path in (tmp_path / "in").glob("*.jpg"):
        path.rename(tmp_path / "in" / "friday" / path.name)
    settings = settings.model_copy(update=friday)
    make_pilot(plan_run(settings, silent), settings, PilotProgress(clock), replicas=telling(clock))

    def label(runs, progress, stop):
        found.extend(len(run.committed) for run in runs)
        return label_runs_here(runs, progress, stop)

    flags = ["--input", f"{tmp_path}/in", "--output", f"{tmp_path}/out", "--once"]
    flags += ["--instruction", "the dog", "--settle-seconds", "0", "--num-gpus-per-replica", "0"]
    flags += ["--model", settings.model, "--model-cache", str(settings.model_cache)]
    flags += ["--decoding.max-new-tokens", "4", "--reading.records-per-shard", "2"]
    watched = settle_hardware(WatchSettings.from_everywhere(flags, "watch"))
    progress = Progress(io.StringIO(), name="watch")
    Watcher(Anywhere(), watched, progress, Stop(), None, label).watch()
    assert found == [3]
    assert manifests(Anywhere(), friday["output"])


def test_shards_are_chosen_at_random_and_the_same_for_a_seed(settings):
    run = plan_run(settings, silent)
    chosen = {choose_shards(run, 3, seed) for seed in range(20)}
    assert len(chosen) > 5
    assert choose_shards(run, 3, 1) == choose_shards(replace(run), 3, 1)
    assert len(choose_shards(run, 100, 0)) == len(run.todo)


def test_a_pilot_that_failed_says_why(settings):
    def replicas(errands, settings, begin, progress, stop):
        for each in errands:
            yield ShardSummary(*each.key, error="the bucket burns")

    run = plan_run(settings, silent)
    with pytest.raises(LineError, match="the bucket burns"):
        make_pilot(run, settings, PilotProgress(), replicas=replicas)


def test_half_a_flag_is_told_with_those_that_it_may_be_the_beginning_of():
    flags = ["--input", "/in", "--output", "/out", "--price", "2.50"]
    meant = "did you mean --price-per-cpu-hour or --price-per-gpu-hour\\?"
    with pytest.raises(SettingsError, match=f"unknown flag --price; {meant}"):
        PlanSettings.from_everywhere(flags, "plan")


def test_a_price_of_cpus_needs_their_number():
    flags = ["--input", "/in", "--output", "/out", "--price-per-cpu-hour", "1"]
    with pytest.raises(SettingsError, match=r"--replica.num-cpus"):
        PlanSettings.from_everywhere(flags, "plan")


@pytest.mark.parametrize(
    ("given", "replicas"), [({"replicas": 8, "max_replicas": 3}, 8), ({"max_replicas": 3}, 3)]
)
def test_hours_are_worked_out_for_the_replicas_that_the_whole_will_have(settings, given, replicas):
    clock, settings = Clock(), settings.model_copy(update=given)
    estimate = make_pilot(
        plan_run(settings, silent), settings, PilotProgress(clock), replicas=telling(clock)
    )
    assert estimate.replicas == replicas


def test_a_shard_that_failed_says_nothing_of_how_many_records_there_are():
    progress = PilotProgress(Clock())
    progress.add(ShardSummary("run", "a", records=3))
    progress.add(ShardSummary("run", "b", records=1, error="the bucket burns"))
    assert progress.records == {"a": 3}
