import json

import pytest

from tests.scoring import evaluate, row
from tests.test_scoring_scores import EXPECTED, GOLD, SAID
from workers.errors import SettingsError
from workers.scoring.metrics import METRICS
from workers.scoring.report import MOST_GROUPS, Facts, write_json, write_markdown
from workers.scoring.thresholds import Minimum, find_missed, read_minimum

FACTS = Facts("'/gold'", "'/labels'", "fixed", "words", (), ())


def cells(page, head):
    """The rows of the table that begins with a column of that name, by their first cell."""
    lines = iter(page.splitlines())
    titles = next(line for line in lines if line.startswith(f"| {head} |"))
    names = [each.strip() for each in titles.strip("|").split("|")]
    next(lines)
    found = {}
    for line in lines:
        if not line.startswith("|"):
            return found
        values = [each.strip() for each in line.strip("|").split("|")]
        found[values[0]] = dict(zip(names, values, strict=True))
    return found


def test_the_page_has_all_metrics_with_a_line_for_each_group():
    page = write_markdown(evaluate(GOLD, SAID), FACTS)
    for head in ("Masks", "Targets", "Answers"):
        table = cells(page, head)
        assert list(table) == [
            "all",
            "no target",
            "1 to 3 targets",
            "more targets",
            "kind: place",
            "kind: use",
        ]
        for name, metric in METRICS.items():
            if metric.table == head:
                shown = float(table["all"][metric.title])
                assert shown == pytest.approx(EXPECTED[name], abs=0.00006)
    assert cells(page, "Answers")["more targets"]["nothing"] == "–"
    assert cells(page, "")["all"] == {
        "": "all",
        "questions": "5",
        "truths": "7",
        "predictions": "6",
        "hits": "4",
    }


def test_the_page_says_what_is_missing_and_what_each_column_means():
    page = write_markdown(evaluate(GOLD, SAID), FACTS)
    assert "* 1 gold rows without a predicted one: nothing was predicted" in page
    for name, metric in METRICS.items():
        assert f"* {metric.title} (`{name}`): {metric.meaning}" in page


def test_names_of_kinds_cannot_break_the_page():
    page = write_markdown(evaluate([row(kind="a|b\n# <b>`x`")], []), FACTS)
    assert "| kind: a\\|b # &lt;b>\\`x\\` |" in page


def test_a_page_of_many_kinds_shows_some_of_them():
    gold = [row(text=f"{n}", kind=f"{n:03}") for n in range(MOST_GROUPS)]
    page = write_markdown(evaluate(gold, []), FACTS)
    assert len(cells(page, "Masks")) == MOST_GROUPS
    assert "and 2 groups more, in the JSON" in page


def test_the_json_has_scores_and_sums_of_every_group():
    found = evaluate(GOLD, SAID)
    missed = ("f1 is low",)
    facts = Facts("'/gold'", "'/labels'", "off", "words", (Minimum("f1", 0.9),), missed)
    document = json.loads(write_json(found, facts))
    assert document["schema"] == 1
    assert document["minimums"] == [{"name": "f1", "least": 0.9}]
    assert document["missed"] == ["f1 is low"]
    assert document["told"] == {"gold rows without a predicted one: nothing was predicted": 1}
    assert document["groups"].keys() == found.scores.keys()
    for group, each in document["groups"].items():
        assert each["scores"] == found.scores[group]
        assert each["sums"]["questions"] == found.sums[group].questions
        assert "detections" not in each["sums"]


# ---- thresholds


@pytest.mark.parametrize(
    ("text", "least"), [("giou=0.5", 0.5), (" f1 = .6 ", 0.6), ("ap=1", 1), ("ap50=1.0", 1)]
)
def test_a_minimum_is_a_name_and_a_number(text, least):
    assert read_minimum(text) == Minimum(text.split("=")[0].strip(), least)


@pytest.mark.parametrize("text", ["giou=0.00001", "giou=0.9999999", "giou=0.5", "ap=1", "ap=0"])
def test_a_minimum_is_written_as_it_was_read(text):
    assert f"{read_minimum(text)}" == text


def test_what_is_no_number_is_missed():
    (said,) = find_missed({"giou": float("nan")}, [read_minimum("giou=0")])
    assert said == "giou is nan, and must be 0 or more"


@pytest.mark.parametrize(
    "text", ["giou", "giou=", "=0.5", "giou=50", "giou=1.1", "giou=-0.1", "giou=x", "giou>=0.5", ""]
)
def test_what_is_no_minimum_is_refused(text):
    with pytest.raises(SettingsError, match=r"is no minimum such as giou=0\.5, with a number from"):
        read_minimum(text)


def test_a_metric_that_is_not_there_is_refused_with_the_list():
    with pytest.raises(SettingsError) as caught:
        read_minimum("iou=0.5")
    assert f"{caught.value}" == f"'iou' is no metric; there are {', '.join(METRICS)}"


def test_what_is_below_its_minimum_is_missed_and_so_is_what_can_not_be_measured():
    scores = {"giou": 0.5, "f1": 0.59996, "ap": None, "ap50": 0.9999999999999998}
    asked = [read_minimum(each) for each in ("giou=0.5", "f1=0.6", "ap=0", "ap50=1")]
    assert find_missed(scores, asked) == [
        "f1 is 0.6000, and must be 0.6 or more",
        "ap can't be measured here, and must be 0 or more",
    ]
