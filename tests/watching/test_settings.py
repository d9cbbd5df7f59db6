import json
import shutil

import pytest

from jobs.watch import main
from workers.errors import SettingsError
from workers.settings import LabelSettings
from workers.watching.settings import WatchSettings

PLACES = ["--input", "/in", "--output", "/out"]


def test_whatever_a_labelling_run_can_be_told_a_watcher_can():
    given = ["--instruction", "the dog", "--replica.precision", "fp32", "--max-replicas", "3"]
    watch = WatchSettings.from_everywhere([*PLACES, *given], "watch")
    label = LabelSettings.from_everywhere([*PLACES, *given], "label")
    assert label == LabelSettings.model_construct(
        **{name: getattr(watch, name) for name in LabelSettings.model_fields}
    )


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--export-coco", "x.json"], "--coco"),
        (["--dry-run"], "jobs/label.py"),
        (["--refresh"], "add --once"),
        (["--settle-seconds", "-1"], "settle-seconds"),
        (["--lease-seconds", "0"], "lease-seconds"),
        (["--output", "/"], "--input lies in --output"),
        (["--output", "/in"], "--input lies in --output"),
    ],
)
def test_what_makes_no_sense_for_a_watcher_is_refused(flags, why):
    with pytest.raises(SettingsError, match=why):
        WatchSettings.from_everywhere([*PLACES, *flags], "watch")


def test_once_a_refresh_is_taken():
    assert WatchSettings.from_everywhere([*PLACES, "--once", "--refresh"], "watch").refresh


def test_an_output_may_lie_in_the_input_or_beside_it_under_a_longer_name():
    for output in ("/in/labels", "/i", "/in2"):
        flags = ["--input", "/in", "--output", output]
        assert WatchSettings.from_everywhere(flags, "watch").output == output


@pytest.mark.parametrize(
    ("flags", "forms"),
    [
        ([], ()),
        (["--coco"], ("coco",)),
        (["--exports", "coco,sheet"], ("coco", "sheet")),
        (["--exports", "sheet", "--coco"], ("coco", "sheet")),
    ],
)
def test_labels_are_also_written_in_as_many_forms_as_are_named(flags, forms):
    assert WatchSettings.from_everywhere([*PLACES, *flags], "watch").forms == forms


def test_a_form_that_there_is_not_is_refused_with_those_that_there_are():
    with pytest.raises(SettingsError, match=r"--exports: .*'coco'.*'sheet'.*, not 'cvat'"):
        WatchSettings.from_everywhere([*PLACES, "--exports", "coco,cvat"], "watch")


def test_a_model_that_can_not_be_is_told_before_anything_is_looked_at(place, tiny_model, capsys):
    broken = shutil.copytree(tiny_model, place.input.parent / "broken")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "mask_side": "x"}))
    place.drop("friday", 0)
    given = ["--input", str(place.input), "--output", str(place.output), "--model", str(broken)]
    assert main([*given, "--instruction", "the dog", "--once"]) != 0
    assert "config.json has 'x' as 'mask_side'" in capsys.readouterr().err
    assert not place.output.exists()
