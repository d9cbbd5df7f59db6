"""jobs/ablate.py: arms are run, can be killed, and make a table."""

import json

import pytest

from jobs.ablate import main
from pixellm.drawn.arm_scores import ArmScores
from tests.test_train_drawn import DyingStore, Killed
from workers.drawn.study import Study
from workers.drawn.study_settings import AblateSettings
from workers.drawn.table import ArmResult, compare, spread, write_table
from workers.errors import CommitError
from workers.storage.memory import MemoryStore

OUTPUT = "mem://b/study"


def plan_of(*more):
    sizes = ["--base-share", "0.0005", "--steps", "2", "--scenes", "8", "--held-out", "1"]
    given = ["--output", OUTPUT, *sizes, "--seeds", "1", "--save-every", "1", *more]
    return AblateSettings.from_flags(given, "ablate").plan


def result(arm, seed, read_iou, giou=0.5):
    return ArmResult(arm, seed, "digest", ArmScores(read_iou, giou, 0.25, 0.5, 100, 200), 9.5)


@pytest.mark.slow
@pytest.mark.long
def test_a_study_that_was_killed_goes_on_to_the_table_it_would_have_had(tmp_path):
    plan, said = plan_of("--arms", "paper,scales-1"), []
    whole, broken = MemoryStore(), DyingStore(["scales-1/0/join/_states/000000002.json"])
    page = Study(plan, tmp_path, whole, said.append).run()
    with pytest.raises(Killed):
        Study(plan, tmp_path, broken, print).run()
    assert Study(plan, tmp_path, broken, print).run() == page
    assert whole.get(f"{OUTPUT}/table.json") == broken.get(f"{OUTPUT}/table.json")
    assert whole.get(f"{OUTPUT}/table.md").decode() == page
    assert "| scales | scales-1 | 1 |" in page
    # a second start learns nothing, and another number of scored scenes scores anew
    told = []
    assert Study(plan, tmp_path, whole, told.append).run() == page
    assert len(told) == 4
    assert all("done already" in line for line in told)
    told.clear()
    Study(plan_of("--arms", "paper", "--held-out", "2"), tmp_path, whole, told.append).run()
    found = json.loads(whole.get(f"{OUTPUT}/table.json"))
    assert found["paper"]["0"]["questions"] == 8
    assert "scales-1" not in found, "it was scored on other scenes"
    assert told[-1] == "1 results of other settings are not in the table"


def test_the_table_has_means_spread_and_the_difference_to_the_paper_from_the_same_seed():
    store = MemoryStore()
    results = [result("paper", seed, iou) for seed, iou in enumerate([0.50, 0.60, 0.70])]
    results += [result("scales-1", seed, iou) for seed, iou in enumerate([0.40, 0.51, 0.60])]
    results += [result("crowded-unrefined", 0, 0.30, 0.2)]
    page = write_table(store, OUTPUT, results)
    assert "| scales | paper | 3 | 0.600 ± 0.100 |  | 0.500 ± 0.000 |  | 0.250 ± 0.000 |" in page
    line = "| scales | scales-1 | 3 | 0.503 ± 0.100 | **-0.097 ± 0.006** | 0.500 ± 0.000 |"
    assert f"{line} +0.000 ± 0.000 | 0.250 ± 0.000 |" in page
    # an arm whose paper's setting isn't there stands alone
    assert "| refinement | crowded-unrefined | 1 | 0.300 |  | 0.200 |  | 0.250 |" in page
    assert "scales-3" not in page
    assert page.count("| paper |") == 4
    written = json.loads(store.get(f"{OUTPUT}/table.json"))
    assert written["scales-1"]["1"]["read_iou"] == 0.51


@pytest.mark.parametrize(
    ("differences", "text"),
    [
        ([], ""),
        ([-0.25], "-0.250"),
        ([0.1, 0.1, -0.1], "+0.033 ± 0.115"),
        ([0.1, 0.12, 0.11], "**+0.110 ± 0.010**"),
        ([0.01, 0.3, 0.02], "+0.110 ± 0.165"),
        ([0.02, 0.04, 0.06], "+0.040 ± 0.020"),  # t 3.46 with 2 degrees of freedom: p 0.07
        ([-0.02, -0.04, -0.05, -0.06], "**-0.043 ± 0.017**"),  # t 4.98 with 3: p 0.02
        ([0.3 - 0.2, 0.4 - 0.3, 0.5 - 0.4], "+0.100 ± 0.000"),  # the same thing thrice
    ],
)
def test_a_difference_is_bold_where_chance_seldom_makes_it(differences, text):
    assert compare(differences) == text


def test_one_value_has_no_spread():
    assert [spread([]), spread([0.5]), spread([0.5, 0.7])] == ["", "0.500", "0.600 ± 0.141"]


def test_a_result_is_read_as_it_was_written_and_what_is_none_says_so():
    made = result("paper", 2, 0.5)
    assert ArmResult.from_json(made.to_json(), "here") == made
    with pytest.raises(CommitError, match="here is no result of an arm"):
        ArmResult.from_json(b'{"arm": "paper"}', "here")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--arms", "paper,scales-4"), "there is no arm 'scales-4'; they are paper, scales-1"),
        (("--base-share", "2"), "--base-share"),
        (("--sedes", "3"), "unknown flag --sedes; did you mean --seeds?"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_written(tmp_path, capsys, more, told):
    assert main(["--output", f"{tmp_path}/out", *more]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
