import json
from dataclasses import fields, replace
from hashlib import sha256

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from pixellm.answers import Target
from pixellm.run_lengths import RunMask
from tests.workbench import (
    IDENTITY,
    CountingEngine,
    FlakyStore,
    label,
    put_photos,
    table,
    tiny_engine,
)
from workers.errors import SettingsError, StorageUnavailable
from workers.labels.calibration import (
    MOST_POINTS,
    RAW_SCORES,
    Calibration,
    read_calibration,
    score_target,
)
from workers.labels.schema import TargetRow
from workers.storage.stores import open_store

CURVE = Calibration("score_iou", ((0.2, 0.1), (0.6, 0.3), (0.7, 0.9)))
MASK = RunMask.from_pixels(np.ones((2, 2), bool))
TARGET = Target(0, None, None, "none", MASK, 0.65, 0.4, 0.5, None)


# ---- the curve


@pytest.mark.parametrize(
    ("raw", "calibrated"),
    [(0.2, 0.1), (0.4, 0.2), (0.6, 0.3), (0.65, 0.6), (0.7, 0.9), (0.1, 0.1), (1.0, 0.9)],
)
def test_it_is_straight_between_points_and_level_beyond_them(raw, calibrated):
    assert CURVE.apply(raw) == pytest.approx(calibrated)


def test_points_may_lie_as_near_as_numbers_can():
    steep = Calibration("score_mask", ((0.0, 0.0), (1e-310, 1.0)))
    assert [steep.apply(raw) for raw in (0.0, 1e-320, 1e-310, 0.5)] == pytest.approx(
        [0.0, 1e-10, 1.0, 1.0], rel=1e-3
    )


def test_one_point_is_one_score_for_all():
    assert Calibration("score_mask", ((0.5, 0.4),)).apply(0.9) == 0.4


def test_without_a_calibration_the_score_is_the_mask_score():
    assert score_target(TARGET, None) == 0.65


@pytest.mark.parametrize(
    ("of", "score"),
    [("score_mask", 0.6), ("score_iou", 0.2), ("score_token", 0.25), ("score_phrase", 0.65)],
)
def test_each_raw_score_can_be_calibrated_and_one_that_is_null_leaves_the_mask_score(of, score):
    assert score_target(TARGET, replace(CURVE, of=of)) == pytest.approx(score)


def test_raw_scores_have_the_names_of_a_target_s_fields_and_of_columns():
    for row in (Target, TargetRow):
        names = [field.name for field in fields(row) if field.name.startswith("score_")]
        assert sorted(names) == sorted(RAW_SCORES)


# ---- fitting


def test_a_fit_rises_and_has_the_least_squared_error():
    made = Calibration.fit([0.4, 0.1, 0.3, 0.2, 0.5], [1, 0, 0, 1, 1], "score_token")
    assert made == Calibration(
        "score_token", ((0.1, 0), (0.2, 0.5), (0.3, 0.5), (0.4, 1), (0.5, 1))
    )


def test_targets_of_the_same_score_count_as_many():
    made = Calibration.fit([0.3, 0.3, 0.3, 0.6], [1, 1, 0.25, 0.25])
    assert made.points == ((0.3, 0.625), (0.6, 0.625))
    assert Calibration.fit([0.5, 0.5], [0, 1]).points == ((0.5, 0.5),)


def test_scores_of_the_table_that_32_bits_make_larger_than_1_are_1():
    made = Calibration.fit(np.float32([0.5, 1.0000001]), [True, True])
    assert made.points[-1] == (1.0, 1.0)
    assert Calibration.from_json(made.to_json(), "it") == made


def test_a_fitted_curve_says_how_often_targets_of_a_score_are_right():
    chance = np.random.default_rng(0)
    raw = chance.random(20_000)
    made = Calibration.fit(raw, chance.random(raw.size) < raw**3)
    for score in (0.2, 0.5, 0.8, 0.95):
        assert made.apply(score) == pytest.approx(score**3, abs=0.03)


@pytest.mark.parametrize("form", ["smooth", "with a jump"])
def test_a_curve_of_many_points_is_thinned_and_hardly_moves(form):
    chance = np.random.default_rng(1)
    raw = np.sort(chance.random(50_000))
    truth = raw**2 if form == "smooth" else np.where(raw > 0.9, 1, raw / 2)
    truth = np.clip(truth + chance.normal(0, 0.1, raw.size), 0, 1)
    made = Calibration.fit(raw, truth)
    whole = isotonic_regression(truth).x
    assert len(set(whole)) > 2 * MOST_POINTS > MOST_POINTS >= len(made.points) > MOST_POINTS // 2
    off = [abs(made.apply(score) - each) for score, each in zip(raw, whole, strict=True)]
    assert max(off) <= 1 / (MOST_POINTS // 2 - 1)
    assert made.points[0][0] == raw[0]
    assert made.points[-1][0] == raw[-1]


def test_nothing_to_fit_to_is_told():
    with pytest.raises(SettingsError, match="no target has a score_phrase: there is nothing"):
        Calibration.fit([], [], "score_phrase")


# ---- the file


def test_a_file_holds_what_was_written_and_its_digest_is_that_of_the_file():
    made = Calibration.fit(
        [0.1, 0.9], [0, 1], model_sha256="ab" * 32, notes={"gold": "s3://gold/mugs"}
    )
    data = made.to_json()
    read = Calibration.from_json(data, "it")
    assert read == made
    assert read.notes == {"gold": "s3://gold/mugs"}
    assert read.sha256 == sha256(data).hexdigest()


def test_a_curve_of_a_model_with_an_adapter_is_for_no_other():
    made = Calibration.fit([0.5], [1], model_sha256="ab" * 32, adapter_sha256="cd" * 32)
    read = Calibration.from_json(made.to_json(), "it")
    assert read == made
    assert read.fits("ab" * 32, "cd" * 32)
    assert not read.fits("ab" * 32, None)
    assert not read.fits("ef" * 32, "cd" * 32)
    alone = Calibration.fit([0.5], [1], model_sha256="ab" * 32)
    assert alone.fits("ab" * 32, None)
    assert not alone.fits("ab" * 32, "cd" * 32)
    assert CURVE.fits("ab" * 32, "cd" * 32)  # it names no model


def test_the_digest_of_a_curve_without_an_adapter_is_what_it_was_before_there_were_any():
    assert b"adapter" not in Calibration.fit([0.5], [1], model_sha256="ab" * 32).to_json()


def test_a_file_that_a_person_wrote_needs_no_more_than_the_curve():
    read = Calibration.from_json(b'{"points": [[0, 0], [1, 0.5]], "of": "score_mask"}', "it")
    assert read == Calibration("score_mask", ((0.0, 0.0), (1.0, 0.5)))
    assert read.sha256 != CURVE.sha256


GOOD = {"of": "score_mask", "points": [[0.2, 0.1], [0.9, 0.95]]}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ("{", "is no JSON: "),
        ("\xff", "is no JSON: "),
        ("[" * 100_000, "is no JSON: "),
        ([0.5], 'must be a JSON object such as {"of": "score_mask"'),
        (None, "0.95]]}, not null"),
        ({**GOOD, "of": "score"}, "'of' must be one of ('score_mask', "),
        ({"points": [[0, 0]]}, "'score_phrase'), not null"),
        ({**GOOD, "of": ["score_mask"]}, 'not ["score_mask"]'),
        ({**GOOD, "note": "x"}, "unknown key 'note'; it may have 'of', 'points', 'model_sha256'"),
        ({**GOOD, "points": []}, "such as [[0.2, 0.1], [0.9, 0.95]], not []"),
        ({**GOOD, "points": {"0.2": 0.1}}, "'points' must be a list of pairs (raw, calibrated)"),
        ({**GOOD, "points": [[0, 0], [0.5]]}, "point 2 must be two numbers from 0 to 1"),
        ({**GOOD, "points": [[0, 0], 0.5]}, "such as [0.2, 0.1], not 0.5"),
        ({**GOOD, "points": [[0, 0, 0]]}, "not [0, 0, 0]"),
        ({**GOOD, "points": [[0, 1.01]]}, "point 1 must be two numbers from 0 to 1"),
        ({**GOOD, "points": [[-0.1, 1]]}, "not [-0.1, 1]"),
        ({**GOOD, "points": [[True, True]]}, "not [true, true]"),
        ({**GOOD, "points": [["0.1", 0]]}, 'not ["0.1", 0]'),
        ({**GOOD, "points": [[0.1, float("nan")]]}, "not [0.1, NaN]"),
        ({**GOOD, "points": [[0.1, 0], [0.1, 1]]}, "point 2, [0.1, 1.0], can't follow [0.1, 0.0]"),
        ({**GOOD, "points": [[0, 0], [0.5, 0.3], [0.6, 0.2]]}, "point 3, [0.6, 0.2], can't"),
        ({**GOOD, "model_sha256": "AB" * 32}, "'model_sha256' must be 64 hex digits, as in the"),
        ({**GOOD, "model_sha256": 7}, "or be left out, not 7"),
        ({**GOOD, "adapter_sha256": "x"}, "'adapter_sha256' must be 64 hex digits"),
        ({**GOOD, "notes": "gold"}, "'notes' must be an object of texts such as"),
        ({**GOOD, "notes": {"date": 7}}, 'not {"date": 7}'),
        ({**GOOD, "of": "x" * 100}, 'not "' + "x" * 59 + "..."),
    ],
)
def test_a_file_that_is_no_calibration_is_refused_with_what_it_must_be(values, told):
    text = values if isinstance(values, str) else json.dumps(values)
    with pytest.raises(SettingsError) as caught:
        Calibration.from_json(text.encode("latin-1"), "--calibration 'c.json'")
    message = f"{caught.value}"
    assert message.startswith("--calibration 'c.json'")
    assert told in message
    assert "\n" not in message


def test_a_file_is_read_from_wherever_it_lies(tmp_path):
    (tmp_path / "c.json").write_bytes(CURVE.to_json())
    open_store("mem://b").put("mem://b/c.json", CURVE.to_json())
    assert read_calibration(f"{tmp_path}/c.json") == read_calibration("mem://b/c.json") == CURVE
    with pytest.raises(SettingsError, match=r"^--calibration '.*/gone.json' can't be read: "):
        read_calibration(f"{tmp_path}/gone.json")
    with pytest.raises(SettingsError, match=r"^--calibration '.*' can't be read: "):
        read_calibration(f"{tmp_path}")


def test_a_store_that_does_not_answer_is_not_the_file_s_fault(monkeypatch):
    store = FlakyStore()
    store.trouble["c.json"] = [StorageUnavailable("busy")]
    monkeypatch.setattr("workers.labels.calibration.open_store", lambda uri: store)
    with pytest.raises(StorageUnavailable):
        read_calibration("mem://b/c.json")


# ---- in the line


def test_a_labelled_shard_has_calibrated_scores_and_says_of_which_calibration():
    plain, calibrated = FlakyStore(), FlakyStore()
    identity = replace(IDENTITY, calibration=CURVE)
    for store, each in ((plain, IDENTITY), (calibrated, identity)):
        put_photos(store, 3)
        label(store, CountingEngine(tiny_engine()), identity=each)
    rows = list(zip(table(plain), table(calibrated), strict=True))
    targets = [pair for one, other in rows for pair in zip(one.targets, other.targets, strict=True)]
    assert len(targets) > 3
    for one, other in targets:
        assert one.score == one.score_mask == pytest.approx(other.score_mask, abs=1e-3)
        assert other.score == pytest.approx(CURVE.apply(other.score_iou), abs=1e-6)
        assert 0 <= one.score_token <= 1
        assert (one.score_phrase is None) == (one.phrase is None)
    assert any(one.score_phrase is not None for one, _ in targets)
    for pair in rows:
        digests = [json.loads(row.decode_json)["calibration"] for row in pair]
        assert digests == [None, CURVE.sha256]
    assert {one.item_id for one, _ in rows} == {other.item_id for _, other in rows}
    assert {one.result_id for one, _ in rows}.isdisjoint(other.result_id for _, other in rows)
