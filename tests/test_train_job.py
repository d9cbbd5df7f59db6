"""jobs/train.py: a label table in, a model or an adapter out that labels pictures."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.label import main as label
from jobs.train import main as train
from pixellm.checkpoints import load_checkpoint, save_checkpoint
from pixellm.digests import adapter_sha256
from pixellm.tiny import tiny_checkpoint
from tests.readme_tree import ROOT
from tests.test_model_folders import put_folder
from tests.training_tables import put_local_photos
from tests.trouble import Trouble
from workers.labels.manifests import current_commits, manifests
from workers.labels.parts import read_rows
from workers.storage.local import LocalStore
from workers.storage.stores import Anywhere
from workers.training import worker
from workers.training.claims import RUNNING, claimed
from workers.training.plan import DataSet
from workers.training.settings import read_data
from workers.training.states import States


@pytest.fixture
def place(tmp_path):
    """A folder with a tiny model, photos, and what people drew on them as a label table."""
    tiny = tiny_checkpoint(0, max_positions=512)
    save_checkpoint(tiny.model, tiny.tokenizer, tmp_path / "tiny")
    put_local_photos(tmp_path, f"{tmp_path}/gold", finish=True)
    return tmp_path


def flags(place, *more):
    return [
        *("--data", f"{place}/gold", "--output", f"{place}/out", "--model", f"{place}/tiny"),
        *("--steps", "4", "--warm-up", "1", "--batch", "2", "--accumulate", "1"),
        *("--save-every", "2", "--rate", "0.003", "--num-workers", "0", *more),
    ]


def lines(folder: Path):
    files = sorted((folder / "metrics").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def steps_in(folder: Path):
    return [each for each in lines(folder) if "losses" in each]


def test_a_model_folder_comes_out_with_where_it_comes_from(place, capsys):
    assert train(flags(place)) == 0
    out, err = capsys.readouterr()
    assert out == f"model      '{place}/out/model'\n"
    assert "step 4 of 4: loss" in err
    assert "6 questions about 3 images are scored every 500 steps and at the end" in err
    assert "step 4 scored on 6 questions" in err
    made, before = load_checkpoint(place / "out" / "model"), load_checkpoint(place / "tiny")
    assert made.sha256 != before.sha256
    card = json.loads((place / "out" / "model" / "training.json").read_text())
    assert card["trained_from_sha256"] == before.sha256
    assert card["plan"]["data"] == [{"prefix": f"{place}/gold", "weight": 1.0}]
    *steps, scored = lines(place / "out")
    assert card["scores"] == {"step": 4, **scored["scores"]}
    assert (place / "out" / "pages" / "000000004.html").is_file()
    assert [each["step"] for each in steps] == [1, 2, 3, 4]
    assert set(steps[0]["losses"]) == {"ce", "bce", "dice", "refinement"}


def test_a_rate_that_never_comes_to_its_highest_is_told(place, capsys):
    assert train(flags(place, "--warm-up", "100", "--evaluate-every", "0")) == 0
    assert (
        "rises for 100 steps (--warm-up), and there are no more than 4" in capsys.readouterr().err
    )


@pytest.fixture
def claims(monkeypatch):
    """What runs of this process claimed."""
    noted = []

    @contextmanager
    def note(store, output, *who, **more):
        noted.append(who)
        yield

    monkeypatch.setattr(worker, "claimed", note)
    return noted


def test_a_second_start_goes_on_or_has_nothing_to_do(place, capsys, claims):
    assert train(flags(place)) == 0
    first = (place / "out" / "model" / "model.safetensors").read_bytes()
    assert train(flags(place)) == 0
    assert "going on from step 4 of 4" in capsys.readouterr().err
    assert len(claims) == 1, "what learns nothing keeps nobody away"
    assert (place / "out" / "model" / "model.safetensors").read_bytes() == first
    assert len(steps_in(place / "out")) == 4


def test_a_run_that_is_refused_does_not_say_that_it_goes_on(place, capsys):
    assert train(flags(place, "--evaluate-every", "0")) == 0
    capsys.readouterr()
    assert train(flags(place, "--evaluate-every", "0", "--steps", "9")) == 2
    told = capsys.readouterr().err
    assert "other settings or other data, at step 4" in told
    assert "going on" not in told


def test_an_output_in_which_another_run_learns_is_left_alone(place, capsys):
    with claimed(LocalStore(), f"{place}/out", "another plan"):
        assert train(flags(place)) == 2
    assert "another training run learns, with other settings" in capsys.readouterr().err
    assert not (place / "out" / "_states").exists()
    assert train(flags(place, "--evaluate-every", "0")) == 0
    assert not (place / "out" / RUNNING).exists()


@pytest.mark.parametrize(("batch", "accumulate", "same"), [(1, 2, True), (2, 2, False)])
def test_a_step_of_another_size_is_another_run(place, claims, batch, accumulate, same):
    """States tell them apart, but the first one comes late."""
    given = flags(place, "--evaluate-every", "0")
    assert train(given) == 0
    for name, value in (("--batch", batch), ("--accumulate", accumulate), ("--output", "o2")):
        given[given.index(name) + 1] = f"{place}/o2" if name == "--output" else f"{value}"
    assert train(given) == 0
    assert (claims[0] == claims[1]) is same


def label_flags(place, output, model, *more):
    return [
        *("--input", f"{place}/photos", "--output", f"{place}/{output}", "--model", f"{model}"),
        *("--instruction", "a dog", "--model-cache", f"{place}/cache", "--max-replicas", "1"),
        # one question a batch: then not even the last digit depends on company
        *("--decoding.max-new-tokens", "60", "--replica.batch-questions", "1", *more),
    ]


def label_table(place, output, model, *more):
    command = [sys.executable, "jobs/label.py", *label_flags(place, output, model, *more)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    store, where = Anywhere(), f"{place}/{output}"
    rows = read_rows(store, where, current_commits(store, where))
    return sorted(rows, key=lambda row: row.item_id)


@pytest.mark.slow
def test_a_bucket_that_refuses_loses_answers_and_cuts_them_changes_nothing(
    place, s3_server, bucket, monkeypatch
):
    plain = ("--evaluate-every", "0", "--save-every", "1")
    assert train(flags(place, *plain)) == 0
    expected = (place / "out" / "model" / "model.safetensors").read_bytes()
    for method, harm, times in [
        ("PUT", "drop", 3),
        ("PUT", "refuse", 3),
        ("PUT", "500", 3),
        ("GET", "cut", 2),
        ("GET", "refuse", 3),
    ]:
        output = f"s3://{bucket}/{method}-{harm}"
        with Trouble(s3_server, method, harm, times) as proxy, monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", proxy.url)
            assert train([*flags(place, *plain), "--output", output]) == 0
            assert proxy.left < 0, "there was trouble, and more calls than that"
        store = Anywhere()
        assert store.get(f"{output}/model/model.safetensors") == expected, (method, harm)
        assert States(store, output, print).steps() == [4, 3]


def test_a_bucket_that_goes_away_ends_a_run_that_can_be_gone_on_with(
    place, s3_server, bucket, monkeypatch, capsys
):
    monkeypatch.setattr("workers.storage.s3.ATTEMPTS", 1)
    output, plain = f"s3://{bucket}/out", ("--evaluate-every", "0", "--save-every", "1")
    with Trouble(s3_server, "DELETE", "refuse", 10**6) as proxy, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        # the third state is kept when the first should go, which the store refuses
        assert train([*flags(place, *plain), "--output", output]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert train([*flags(place, *plain), "--output", output]) == 0
    assert "going on from step 3 of 4" in capsys.readouterr().err
    assert train(flags(place, *plain)) == 0
    expected = (place / "out" / "model" / "model.safetensors").read_bytes()
    assert Anywhere().get(f"{output}/model/model.safetensors") == expected


@pytest.mark.slow
@pytest.mark.ray(last=True)
def test_an_adapter_in_a_bucket_labels_as_the_whole_model_does(place, bucket, capsys):
    output = ("--output", f"s3://{bucket}/out")
    assert train([*flags(place), *output, "--result", "adapter"]) == 0
    assert train([*flags(place), *output]) == 0  # the same run, written in the other form
    told = capsys.readouterr().out.splitlines()
    assert told == [f"{name:<11}'s3://{bucket}/out/{name}'" for name in ("adapter", "model")]
    merged = label_table(place, "merged", f"s3://{bucket}/out/model")
    adapter = ("--adapter", f"s3://{bucket}/out/adapter")
    rows = label_table(place, "adapted", f"{place}/tiny", *adapter)
    assert len(rows) == 8
    assert sum(row.n_targets for row in rows) > 0
    for row, same in zip(rows, merged, strict=True):
        assert (row.item_id, row.answer_text) == (same.item_id, same.answer_text)
        masks = [[target.rle_counts for target in each.targets] for each in (row, same)]
        assert masks[0] == masks[1]
        assert row.model_sha256 == load_checkpoint(place / "tiny").sha256
        assert (len(row.adapter_sha256), same.adapter_sha256) == (64, None)
    (manifest,) = manifests(Anywhere(), f"{place}/adapted")
    assert manifest.adapter_sha256 == rows[0].adapter_sha256
    for more, left in ((adapter, 0), ((), 1)):  # the same adapter: nothing to do; none: all
        assert label([*label_flags(place, "adapted", f"{place}/tiny", *more), "--dry-run"]) == 0
        assert f": 1 shard, {left} to do" in capsys.readouterr().out


def test_an_adapter_and_its_page_come_out(place, capsys):
    assert train([*flags(place), "--result", "adapter"]) == 0
    assert capsys.readouterr().out == f"adapter    '{place}/out/adapter'\n"
    folder = place / "out" / "adapter"
    assert {path.name for path in folder.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "light"),
        *("training.json", "README.md"),
    }
    page = (folder / "README.md").read_text()
    assert f"label.py --model {place}/tiny --adapter {folder} --input" in page
    assert not (place / "out" / "model").exists()
    digest = adapter_sha256(folder)
    assert train([*flags(place), "--result", "adapter"]) == 0  # again: the same labels come of it
    assert adapter_sha256(folder) == digest


def test_tensorboard_that_is_not_installed_is_told_of_before_anything_begins(
    place, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not there
    assert train(flags(place, "--tensorboard", f"{place}/board")) == 2
    assert "--tensorboard needs the package tensorboard" in capsys.readouterr().err
    assert not (place / "out").exists()
    assert not (place / "board").exists()


@pytest.mark.parametrize(
    ("more", "code", "told"),
    [
        (("--data", "gold:0"), 2, "--data: the weight of 'gold' must be above 0, not '0'"),
        (("--model", "nowhere"), 2, "there is no such folder"),
        (("--rank", "0", "--no-light"), 2, "nothing would learn"),
        (
            ("--rank", "0", "--result", "adapter"),
            2,
            "--result adapter with --rank 0: an adapter is",
        ),
        (("--full", "--result", "adapter"), 2, "--result adapter with --full: an adapter is what"),
        (("--data", "empty"), 1, "nothing"),
        (("--stepps", "3"), 2, "unknown flag --stepps; did you mean --steps?"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_begun(place, monkeypatch, capsys, more, code, told):
    monkeypatch.chdir(place)
    (place / "empty").mkdir()
    base = flags(place)
    if more[0] == "--data":
        base = base[2:]
    assert train([*base, *more]) == code
    assert told in capsys.readouterr().err
    assert not (place / "out").exists()


def test_models_of_buckets_may_be_kept_within_a_limit(place, capsys):
    put_folder(place / "tiny", "mem://models/tiny")
    given = flags(place, "--model-cache", f"{place}/cache", "--model-cache-gib", "0.000001")
    given[given.index("--model") + 1] = "mem://models/tiny"
    assert train(given) == 2
    assert "--model 'mem://models/tiny' takes" in capsys.readouterr().err
    assert not list((place / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("text", "prefix", "weight"),
    [
        ("s3://bucket/gold", "s3://bucket/gold", 1.0),
        ("s3://bucket/gold:0.25", "s3://bucket/gold", 0.25),
    ],
)
def test_a_data_set_may_have_a_weight(text, prefix, weight):
    assert read_data(text) == DataSet(prefix, weight)
