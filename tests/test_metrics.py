"""What Prometheus is told: by a replica, through Ray, and what the dashboard draws of it."""

import io
import json
import re
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from tests.photos import load_photos
from tests.workbench import CountingEngine, FlakyStore, label, plan, put_photos, tiny_engine
from workers.driver import label_run
from workers.errors import StorageUnavailable
from workers.hardware import settle_hardware
from workers.labels.rows import blank_row
from workers.meter import Meter, Stage
from workers.metrics import FLUSH_SECONDS, METRICS, Kind, RayMeter
from workers.progress import Progress
from workers.runs import plan_run
from workers.settings import LabelSettings

ROOT = Path(__file__).parents[1]
DASHBOARD = ROOT / "infra" / "grafana" / "pixellm.json"
SECONDS = 60


@pytest.fixture
def store():
    return FlakyStore()


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_the_dashboard_draws_every_metric_and_none_that_is_not_there():
    drawn = {name for text in expressions() for name in re.findall(r"\bray_pixellm_\w+", text)}
    assert drawn == {metric.exported for metric in METRICS}


def test_the_dashboard_tells_metrics_apart_by_their_tags_only():
    tags = {metric.exported: metric.tag for metric in METRICS}
    for text in expressions():
        (name, *_) = re.findall(r"\bray_pixellm_\w+", text)
        by = set(re.findall(r"by \(([^)]*)\)", text)[0].split(", ")) if " by " in text else set()
        assert by <= {"WorkerId", tags[name]}, text
        assert set(re.findall(r'stage="(\w+)"', text)) <= set(Stage), text


def test_the_dashboard_has_one_place_for_each_panel():
    dashboard = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_names_say_their_unit_and_tags_are_few():
    for metric in METRICS:
        assert metric.name.startswith("pixellm_")
        assert metric.tag in ("", "status", "stage", "result", "of")
        assert not metric.name.endswith("_total")  # Ray puts it there


# ---- what a replica tells ----


class Heard(RayMeter):
    """Keeps what would be told to Ray, since none is running."""

    def __init__(self) -> None:
        self.told: dict[tuple[str, str], float] = {}
        self.calls = 0
        super().__init__()
        for told in (self._counters, self._gauges):
            told.update({metric: _Told(self, metric) for metric in told})


class _Told:
    def __init__(self, meter, metric) -> None:
        self.meter, self.metric = meter, metric

    def inc(self, value, tags):
        assert self.metric.kind is Kind.COUNTER
        assert value > 0, "Ray's own raise for it"
        key = self.metric.name, "".join(tags.values())
        self.meter.told[key] = self.meter.told.get(key, 0) + value
        self.meter.calls += 1

    def set(self, value, tags):
        assert self.metric.kind is Kind.GAUGE
        self.meter.told[self.metric.name, "".join(tags.values())] = value
        self.meter.calls += 1


def labelled_by(store, **more) -> Heard:
    meter = Heard()
    label(store, CountingEngine(tiny_engine()), meter=meter, **more)
    meter.flush()
    return meter


def test_a_shard_is_counted_in_records_rows_masks_steps_and_commits(store):
    put_photos(store, 3)
    store.put("mem://b/in/broken.jpg", b"no picture")
    told = labelled_by(store, shards=plan(store, 100)).told
    assert told["pixellm_records", ""] == 4
    by_status = {tag: value for (name, tag), value in told.items() if name == "pixellm_rows"}
    assert by_status.pop("rejected_input") == 2
    assert sum(by_status.values()) == 6
    assert told["pixellm_commits", "won"] == 1
    assert ("pixellm_commits", "lost") not in told
    assert told["pixellm_step_questions", ""] > told["pixellm_steps", ""] > 0
    assert told["pixellm_questions_waiting", ""] >= 0


def test_every_stage_takes_time_and_the_model_no_more_than_there_is(store):
    put_photos(store, 4)
    started = time.monotonic()
    told = labelled_by(store, shards=plan(store, 100)).told
    passed = time.monotonic() - started
    stages = {tag: value for (name, tag), value in told.items() if name == "pixellm_stage_seconds"}
    assert set(stages) == set(Stage)
    assert all(value > 0 for value in stages.values())
    assert stages["model"] <= passed


def test_masks_are_counted(store):
    meter, row = Heard(), blank_row()
    meter.labelled([replace(row, status="ok", n_targets=3), replace(row, status="empty")])
    meter.flush()
    assert meter.told["pixellm_targets", ""] == 3
    assert meter.told["pixellm_rows", "ok"] == meter.told["pixellm_rows", "empty"] == 1


def test_a_commit_that_another_attempt_won_is_lost(store):
    put_photos(store, 1)
    shards = plan(store, 100)
    labelled_by(store, shards=shards)
    told = labelled_by(store, shards=shards).told
    assert told["pixellm_commits", "lost"] == 1


def test_what_a_second_brings_is_told_at_once(store, monkeypatch):
    monkeypatch.setattr("workers.metrics.FLUSH_SECONDS", 60)
    meter = Heard()
    meter.committed(won=True)  # the first word is passed on
    before = meter.calls
    for _ in range(1_000):
        meter.committed(won=True)
    assert meter.calls == before
    meter.flush()
    assert meter.calls == before + 1
    assert meter.told["pixellm_commits", "won"] == 1_001


def test_a_silent_meter_hears_nothing_and_lets_errors_pass():
    meter = Meter()
    with pytest.raises(StorageUnavailable), meter.timing(Stage.READ):
        raise StorageUnavailable("busy")


def test_a_stage_that_fails_has_taken_its_time():
    meter = Heard()

    def fail():
        time.sleep(0.01)
        raise StorageUnavailable("busy")

    with pytest.raises(StorageUnavailable), meter.timing(Stage.READ):
        fail()
    meter.flush()
    assert meter.told["pixellm_stage_seconds", "read"] >= 0.01


# ---- through Ray ----


def scrape(address: str) -> dict[str, float]:
    """Values by name and our tag."""
    with urllib.request.urlopen(address, timeout=10) as reply:
        text = reply.read().decode()
    found = {}
    for line in text.splitlines():
        if line.startswith("ray_pixellm_"):
            series, _, value = line.rpartition(" ")
            name, _, tags = series.partition("{")
            own = re.search(r'\b(?:status|stage|result|of)="(\w+)"', tags)
            found[f"{name} {own[1]}" if own else name] = float(value)
    return found


@pytest.mark.ray(last=True)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray warns of its own settings
def test_a_run_on_ray_serves_its_numbers_and_its_replicas_log_lines_of_json(tmp_path, capsys):
    import ray

    from workers.pool import label_on_ray

    for photo in load_photos()[:3]:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / photo.name).write_bytes(photo.data)
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no picture")
    given = ["--input", f"{tmp_path}/in", "--output", f"{tmp_path}/out", "--max-replicas", "1"]
    given += ["--instruction", "the dog", "--log-format", "json", "--num-gpus-per-replica", "0"]
    settings = settle_hardware(LabelSettings.from_everywhere(given, "label"))
    seen: dict[str, float] = {}
    logged: list[dict[str, object]] = []

    def watched(*given):
        """What labels the shards, with a look at Ray before it goes."""
        for summary in label_on_ray(*given):
            yield summary
            (address,) = re.findall(r"http://127\.0\.0\.1:\d+/metrics", told.getvalue())
            deadline = time.monotonic() + SECONDS
            while "ray_pixellm_commits_total won" not in seen and time.monotonic() < deadline:
                time.sleep(0.5)
                seen.update(scrape(address))
            for path in Path(ray._private.worker._global_node.get_logs_dir_path()).glob("*.err"):
                lines = path.read_text().splitlines()
                logged.extend(json.loads(line) for line in lines if line.startswith("{"))

    told = io.StringIO()
    progress = Progress(told)
    progress.speak_json()
    label_run(plan_run(settings, progress.say), progress, replicas=watched)
    assert seen["ray_pixellm_records_total"] == 4
    assert seen["ray_pixellm_rows_total rejected_input"] == 1
    assert {f"ray_pixellm_stage_seconds_total {stage}" for stage in Stage} <= set(seen)
    assert 0 < seen["ray_pixellm_step_questions_total"] / seen["ray_pixellm_steps_total"] <= 3
    assert {name.partition(" ")[0] for name in seen} <= {metric.exported for metric in METRICS}
    assert {line["message"] for line in logged if "shard" in line} == {
        "rejected_input: image_unknown_format",
        "committed: 4 rows of 4 records",
    }
    printed = told.getvalue() + capsys.readouterr().err
    said = [line for line in printed.splitlines() if "core_worker" not in line]
    assert {json.loads(line)["from"] for line in said} == {"label"}
    assert "the dog" not in f"{said} {logged}"


def test_ray_is_told_once_in_a_while_without_being_asked(monkeypatch):
    now = 100.0
    monkeypatch.setattr("workers.metrics.time.monotonic", lambda: now)
    meter = Heard()
    meter.retried()
    assert meter.told == {("pixellm_shard_retries", ""): 1}
    meter.retried()
    assert meter.told == {("pixellm_shard_retries", ""): 1}
    now += FLUSH_SECONDS
    meter.retried()
    assert meter.told == {("pixellm_shard_retries", ""): 3}


def test_rows_without_a_mask_are_no_count_of_none():
    meter = Heard()
    meter.labelled(())
    meter.flush()
    assert meter.told == {("pixellm_records", ""): 1}
