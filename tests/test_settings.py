import pickle
import re
from typing import Annotated

import pytest
from pydantic import BaseModel, Field

from pixellm.answers import DecodeSettings
from workers.errors import SettingsError
from workers.exports.settings import ExportSettings
from workers.records.pictures import PictureLimits
from workers.records.record import FieldMap
from workers.settings import SHIPPED_MODEL, LabelSettings
from workers.settings_names import flag_of, leaves, variable_of
from workers.settings_sources import SettingsTree, Verbatim

PLACES = ("--input", "/in", "--output", "/out")


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for path in leaves(LabelSettings):
        monkeypatch.delenv(variable_of(path), raising=False)


def read(*arguments: str) -> LabelSettings:
    return LabelSettings.from_everywhere([*PLACES, *arguments], "python jobs/label.py")


def refusal(*arguments: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(*arguments)
    return str(caught.value)


def test_the_defaults_are_those_of_the_parts_they_go_to():
    settings = read()
    assert settings.decode_settings == DecodeSettings()
    assert settings.picture_limits == PictureLimits()
    assert settings.field_map == FieldMap()
    assert settings.model_place == SHIPPED_MODEL
    assert settings.questions == ()


def test_a_flag_beats_a_variable_and_a_variable_beats_the_file(monkeypatch, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("replica: {batch_questions: 3, shards_in_flight: 3}\nmin_replicas: 3\n")
    monkeypatch.setenv("PIXELLM_REPLICA__BATCH_QUESTIONS", "2")
    monkeypatch.setenv("PIXELLM_REPLICA__SHARDS_IN_FLIGHT", "2")
    settings = read("--config", str(file), "--replica.batch-questions", "1")
    assert settings.replica.batch_questions == 1
    assert settings.replica.shards_in_flight == 2
    assert settings.min_replicas == 3
    assert settings.replica.precision == "auto"


def test_the_file_can_also_be_named_by_a_variable(monkeypatch, tmp_path):
    (tmp_path / "run.yaml").write_text("instruction: [the mug, 'red, round']\n")
    monkeypatch.setenv("PIXELLM_CONFIG", str(tmp_path / "run.yaml"))
    assert read().instruction == ("the mug", "red, round")


@pytest.mark.parametrize("text", ['a "red", round mug', "[the left one]", "{x}", "it's 7", "a\\"])
def test_an_instruction_may_hold_commas_quotes_and_brackets(text):
    assert read("--instruction", text, f"--instruction={text}").instruction == (text, text)


def test_a_variable_holds_an_instruction_a_line(monkeypatch):
    monkeypatch.setenv("PIXELLM_INSTRUCTION", "the red, round mug\nthe dog")
    assert read().instruction == ("the red, round mug", "the dog")
    assert read("--instruction", "the cat").instruction == ("the cat",)


def test_roots_are_places_and_may_hold_commas():
    settings = read("--reading.roots", "/data/a,b", "--reading.roots", "s3://bucket/x/")
    assert settings.reading.roots == ("/data/a,b", "s3://bucket/x")
    assert settings.reading.threads == 8


def test_a_calibration_is_a_path_or_a_place_in_a_bucket(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert read().calibration is None
    assert read("--calibration", "c.json").calibration == f"{tmp_path}/c.json"
    assert read("--calibration", "s3://bucket/c.json").calibration == "s3://bucket/c.json"


def test_an_adapter_is_a_place_and_none_without_the_flag(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert read().adapter is None
    assert read("--adapter", "tuned/adapter").adapter == f"{tmp_path}/tuned/adapter"
    monkeypatch.setenv("PIXELLM_ADAPTER", "s3://bucket/adapter/")
    assert read().adapter == "s3://bucket/adapter"


def test_what_is_marked_verbatim_is_taken_as_it_is_in_any_tree_and_nothing_else_is():
    class Group(BaseModel):
        kept: Annotated[tuple[str, ...], Verbatim] = ()
        cut: tuple[str, ...] = ()

    class Tree(SettingsTree):
        instruction: tuple[str, ...] = ()
        group: Group = Group()

    given = ("--group.kept", "a,b", "--group.kept", "[c", "--group.cut", "a,b")
    tree = Tree.from_everywhere([*given, "--instruction", "a,b"], "x")
    assert tree.group == Group(kept=("a,b", "[c"), cut=("a", "b"))
    assert tree.instruction == ("a", "b")


def test_names_of_columns_are_given_with_commas():
    settings = read("--reading.fields.image", "photo, picture")
    assert settings.field_map.image == ("photo", "picture")
    assert settings.field_map.instructions == FieldMap().instructions


def test_the_flags_of_the_readme_are_on_the_top_level():
    settings = read("--num-gpus-per-replica", "0.5", "--max-replicas", "4", "--dry-run")
    assert (settings.num_gpus_per_replica, settings.max_replicas, settings.dry_run) == (
        0.5,
        4,
        True,
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--instructoin", "x"), "unknown flag --instructoin; did you mean --instruction?"),
        (("--in", "x"), "unknown flag --in; --help lists all"),
        (("--precision", "x"), "unknown flag --precision; did you mean --replica.precision?"),
        (("--gpu", "1"), "; did you mean --max-gpu-hours or --num-gpus-per-replica?"),
        (("--replica", "3"), "--replica is no setting, but a group; did you mean --min-replicas?"),
        (("--reading", "3"), "--reading is no setting, but a group; did you mean --reading."),
        (("--replica.batch-question=3",), "did you mean --replica.batch-questions?"),
        (("stray",), "unexpected argument 'stray'"),
        (("--reading.threads", "0"), "--reading.threads: input should be greater than"),
        (("--min-replicas", "x"), "not 'x'"),
        (("--replica.batch-questions", "many"), "must be a whole number or auto, not 'many'"),
        (("--min-replicas", "4", "--max-replicas", "2"), "--max-replicas 2 is less than"),
        (("--instruction", "[SEG]"), "--instruction: the instruction is empty"),
        (("--model", "http://host/m"), "--model: 'http://host/m' is no place for files"),
        (("--calibration", "http://host/c"), "--calibration: 'http://host/c' is no place for"),
        (("--instruction",), "--instruction needs a value behind it"),
        (("--model",), "--model needs a value behind it"),
        (("--refresh=ja",), "--refresh takes no value, and 'ja' stands behind it"),
        (("--config", "/nowhere.yaml"), "--config '/nowhere.yaml' can't be read"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(arguments, told):
    message = refusal(*arguments)
    assert told in message
    assert "\n" not in message
    assert "pydantic" not in message


def test_every_problem_is_told_at_once():
    with pytest.raises(SettingsError) as caught:
        LabelSettings.from_everywhere(["--reading.threads", "0"], "label")
    lines = str(caught.value).splitlines()
    assert lines[:2] == [
        f"{each} is missing; --help explains it" for each in ("--input", "--output")
    ]
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("PIXELLM_FOO", "unknown variable PIXELLM_FOO; --help lists all: PIXELLM_REPLICA__"),
        ("PIXELLM_BATHC", "unknown variable PIXELLM_BATHC; --help lists all"),
        ("PIXELLM_INSTRUCTIONS", "did you mean PIXELLM_INSTRUCTION?"),
        ("PIXELLM_REPLICA__BATCH", "did you mean PIXELLM_REPLICA__"),
        ("pixellm_modle", "unknown variable pixellm_modle; did you mean PIXELLM_MODEL?"),
    ],
)
def test_an_unknown_variable_is_refused(monkeypatch, name, near):
    monkeypatch.setenv(name, "1")
    assert near in refusal()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("modle: x", "unknown setting 'modle'; did you mean model?"),
        ("reading.threads: 3", "'reading.threads' is written as `reading: {threads: ...}`"),
        ("min_replicas: 1\nmin_replicas: x", "line 2, column 1: min_replicas"),
        ("<<: {min_replicas: x}", "run.yaml': min_replicas: must be a whole number"),
        ("reading: {fields: {ids: a}}", "unknown setting 'reading.fields.ids'"),
        ("- a", "must hold settings, a line each such as `min_replicas: 2`"),
        ("min_replicas:2", "(with a space behind the colon), not 'min_replicas:2'"),
        ("a: [", "run.yaml' is no YAML: line 1, column 5, `a: [`: a value is missing, or a"),
        ("min_replicas: many", "min_replicas: must be a whole number, not 'many'"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_in_one_line(tmp_path, text, told):
    (tmp_path / "run.yaml").write_text(text)
    message = refusal("--config", str(tmp_path / "run.yaml"))
    assert told in message
    assert "\n" not in message


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit) as ended:
        LabelSettings.from_everywhere(["--help"], "python jobs/label.py")
    assert ended.value.code == 0
    told = capsys.readouterr().out
    for path in leaves(LabelSettings):
        after = told.split(f"\n  {flag_of(path)}", 1)[1]
        words = after.split("\n  --", 1)[0].split("(default")[0].split()
        assert len(words) > 3, path
    # what Python calls a type or writes for a value tells a user nothing
    assert not re.findall(r"tuple|None|\(\)|False|\bint\b|\bstr\b|float|Path|default: [()]", told)
    assert "(default: instruction,instructions,text," in " ".join(told.split())
    assert told.startswith("usage: python jobs/label.py --input PLACE --output PLACE [--flag")
    assert "PIXELLM_REPLICA__PRECISION=fp32" in told


def test_help_of_an_export_is_in_the_same_words(capsys):
    with pytest.raises(SystemExit):
        ExportSettings.from_flags(["--help"], "python jobs/export.py")
    told = " ".join(capsys.readouterr().out.split())
    assert "--labels PLACE" in told
    assert not re.findall(r"None|\bint\b|\bstr\b|float|default: 0\.0", told)


def test_help_may_speak_of_a_percentage(capsys):
    class Tree(SettingsTree):
        share: int = Field(default=50, description="100% (all) or less")

    with pytest.raises(SystemExit):
        Tree.from_everywhere(["--help"], "x")
    assert "100% (all) or less (default: 50)" in capsys.readouterr().out


def test_help_is_given_whatever_else_is_wrong(monkeypatch, capsys):
    monkeypatch.setenv("PIXELLM_FOO", "1")
    with pytest.raises(SystemExit):
        LabelSettings.from_everywhere(["--config", "/nowhere.yaml", "--help"], "label")
    assert "--instruction" in capsys.readouterr().out


CONFIG = """\
min_replicas: {min_replicas}
replica:
  num_cpus: {num_cpus}
reading: {reading}
instruction: {instruction}
"""


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"min_replicas": 0}, "line 1, column 1: min_replicas: input should be greater"),
        ({"num_cpus": "'two'"}, "line 3, column 3: replica.num_cpus: must be a whole number, not"),
        ({"reading": "threads:8"}, "line 4, column 1: reading: must be a group of settings, not"),
        ({"reading": "[a]"}, "a line each such as `records_per_shard: ...`"),
        ({"reading": "{thread: 1}"}, "line 4, column 11: unknown setting 'reading.thread'; did"),
        ({"instruction": "[a, 7]"}, "line 5, column 1: instruction: must be a text, not 7: a text"),
        ({"instruction": "[the mug: red]"}, "a colon, a number and a `yes` need quotes"),
        ({"instruction": "{}"}, "instruction: must be a text or a list of texts, not {}"),
    ],
)
def test_a_wrong_value_in_the_file_is_told_with_its_place(tmp_path, wrong, told):
    right = {"min_replicas": 1, "num_cpus": 1, "reading": "{threads: 1}", "instruction": "a"}
    (tmp_path / "run.yaml").write_text(CONFIG.format(**{**right, **wrong}))
    message = refusal("--config", str(tmp_path / "run.yaml"))
    assert message.startswith(f"--config '{tmp_path}/run.yaml', line ")
    assert told in message
    assert "\n" not in message


def test_settings_of_the_file_that_do_not_fit_together_are_told_by_name(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("{input: /in, output: /out, min_replicas: 2, max_replicas: 1}")
    with pytest.raises(SettingsError, match=r"^--max-replicas 1 is less than --min-replicas 2$"):
        LabelSettings.from_everywhere(["--config", str(file)], "label")


def test_a_wrong_flag_is_not_taken_for_the_value_of_the_file(tmp_path):
    (tmp_path / "run.yaml").write_text("min_replicas: 2\n")
    message = refusal("--config", str(tmp_path / "run.yaml"), "--min-replicas", "x")
    assert message == "--min-replicas: must be a whole number, not 'x'"


@pytest.mark.parametrize("value", ["0", "-1"])
def test_a_number_in_the_file_is_told_as_a_number(tmp_path, value):
    (tmp_path / "run.yaml").write_text(f"min_replicas: {value}\n")
    assert refusal("--config", str(tmp_path / "run.yaml")).endswith(f"equal to 1, not {value}")


def test_a_file_that_was_read_is_forgotten_by_the_next_settings(tmp_path):
    (tmp_path / "run.yaml").write_text("cards: '0'\n")
    refusal("--config", str(tmp_path / "run.yaml"))
    with pytest.raises(SettingsError, match=r"^--cards: "):
        ExportSettings.from_flags(["--labels", "a", "--output", "b", "--cards", "0"], "x")


def test_settings_are_frozen_and_travel_to_a_worker(monkeypatch):
    settings = read("--instruction", "the mug", "--reading.records-per-shard", "5")
    with pytest.raises(ValueError, match="frozen"):
        settings.min_replicas = 2
    packed = pickle.dumps(settings)
    monkeypatch.setenv("PIXELLM_MIN_REPLICAS", "7")  # a worker's own environment changes nothing
    assert pickle.loads(packed) == settings


def test_values_that_no_machine_has_are_refused(tmp_path):
    assert "--num-gpus-per-replica" in refusal("--num-gpus-per-replica", "inf")
    assert "nosuchuser" in refusal("--model-cache", "~nosuchuser/x")
    assert "nosuchuser" in refusal("--model", "~nosuchuser/x")
    config = tmp_path / "run.yaml"
    for text in ("max_replicas: !!bool foo", "max_replicas: \0"):
        config.write_text(text)
        assert "no YAML" in refusal("--config", str(config))
    config.write_text("replica: 0x" + "f" * 10_000)
    assert "thousands of digits" in refusal("--config", str(config))


def test_how_many_pictures_are_ready_depends_on_the_device_unless_it_is_said():
    assert read("--num-gpus-per-replica", "0").pictures_at_once == 64
    assert read("--num-gpus-per-replica", "0.5").pictures_at_once == 256
    assert read("--num-gpus-per-replica", "1", "--reading.pictures", "7").pictures_at_once == 7


def test_how_many_questions_at_once_is_a_number_or_left_to_memory():
    assert read("--replica.batch-questions", "auto").replica.batch_questions is None
    assert read("--replica.batch-questions", "1").replica.batch_questions == 1
    for wrong in ("0", "-3", "1000001", "1.5"):
        assert "--replica.batch-questions" in refusal("--replica.batch-questions", wrong)


def test_least_and_most_replicas_may_be_the_same():
    assert read("--min-replicas", "2", "--max-replicas", "2").min_replicas == 2


def test_numbers_that_mean_nothing_are_refused():
    assert "--num-gpus-per-replica" in refusal("--num-gpus-per-replica", "-1")
    assert "--decoding.max-new-tokens" in refusal("--decoding.max-new-tokens", "0")
    assert read("--decoding.max-new-tokens", "1").decode_settings.max_new_tokens == 1


def test_a_variable_for_a_whole_group_is_told_with_its_name(monkeypatch):
    monkeypatch.setenv("PIXELLM_READING", "threads=3")
    assert refusal() == (
        "PIXELLM_READING is no setting, but a group: give PIXELLM_READING__... one by one"
    )


def test_several_texts_may_follow_one_flag_or_stand_behind_one_each():
    behind_one = read("--instruction", "the red mug", "the blue one, please", "--refresh")
    one_each = read("--instruction", "the red mug", "--instruction", "the blue one, please")
    assert behind_one.instruction == one_each.instruction == ("the red mug", "the blue one, please")
    assert behind_one.refresh
