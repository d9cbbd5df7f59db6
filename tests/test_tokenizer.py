import json
import shutil

import pytest

from pixellm.added_tokens import ADDED_FILE, CONFIG_FILE, MAP_FILE
from pixellm.errors import CheckpointError, ConfigError, InstructionError
from pixellm.tokenizer import (
    MIN_BYTE_FALLBACK_VOCABULARY,
    MODEL_FILE,
    Tokenizer,
    train_tokenizer,
)
from tests.official import FIXTURE, META

FILES = (MODEL_FILE, ADDED_FILE, MAP_FILE, CONFIG_FILE)
CORPUS = [
    "USER: Where is the large red striped circle? ASSISTANT: the large red striped circle",
    "USER: Which small blue star is left of the green square? ASSISTANT: the small blue star,.",
] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_folder(FIXTURE / "hf_model")


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        shutil.copy(FIXTURE / "hf_model" / name, tmp_path / name)
    return tmp_path


def test_every_conversation_of_the_fixture_gets_the_official_ids(tokenizer, tensors):
    rows, masks = tensors["loss.input_ids"], tensors["loss.attention_masks"]
    for text, row, mask in zip(META["conversations"], rows, masks, strict=True):
        assert tokenizer.encode_prompt(text) == row[: int(mask.sum())].tolist()


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("[SEG0] [SEG1]\n[SEG2]", [400, 401, 402]),
        ("<im_end>\nthe", [407, "▁the"]),
        ("the <im_start>", ["▁the", 406]),
        ("[SEG5].", [405, "▁."]),
        ("the</s>", ["▁the", 2]),
        ("</s>the", [2, "▁the"]),
        ("the </s>", ["▁the", "▁", 2]),  # LLaMA's map says of </s> that white space stays
        ("", []),
        (" ", ["▁", "▁"]),
    ],
)
def test_white_space_that_touches_an_added_token_is_dropped(tokenizer, text, pieces):
    # Expected values: transformers 4.31.0, slow LlamaTokenizer, legacy mode.
    wanted = [p if isinstance(p, int) else tokenizer._pieces.piece_to_id(p) for p in pieces]
    assert tokenizer.encode(text, bos=False) == wanted


def test_a_codebook_token_that_does_not_exist_is_plain_text(tokenizer):
    assert max(tokenizer.encode("[SEG6] [SEG]")) < 400


def test_decoding_gives_readable_text(tokenizer, tensors):
    ids = tensors["gen0.q0.output_ids"].tolist()
    group = tokenizer.seg_text
    assert tokenizer.decode(ids).endswith(
        "USER: <im_start> <image> <im_end> Can you segment the dog and the cat in this image? "
        f"ASSISTANT: Sure, the dog and the cat are {group} and {group}, separately."
    )


def test_decoded_text_has_the_words_of_the_official_decoding(tokenizer, tensors):
    for image in META["evaluate"]:
        for at, text in enumerate(image["texts"]):
            ids = tensors[f"gen{image['image']}.q{at}.output_ids"].tolist()
            ours = tokenizer.decode(ids).replace("<image>", "")
            assert ours.split("<im_end>")[0].split() == text[3:].split("<im_end>")[0].split()
            assert "".join(ours.split()) == "".join(text[3:].removesuffix("</s>").split())


def test_encoding_decoded_text_gives_the_same_ids(tokenizer, tensors):
    for name, ids in tensors.items():
        if name.endswith("output_ids"):
            whole = ids.tolist()
            assert [*tokenizer.encode_prompt(tokenizer.decode(whole)), 2] == whole


def test_padding_and_ids_beyond_the_vocabulary_are_not_decoded(tokenizer):
    ids = tokenizer.encode("the dog")
    assert tokenizer.decode([*ids, 0, 2, 0, 0, 31999, 5000]) == "the dog"


def places_of(tokenizer, ids, instead=None):
    """What of the text each id is."""
    text, places = tokenizer.decode_with_places(ids, instead)
    return text, [text[slice(*place)] for place in places]


def test_every_id_knows_its_place_in_the_text(tokenizer):
    ids = tokenizer.encode(f"Sure, the dog is {tokenizer.seg_text}, the cat.</s>")
    text, parts = places_of(tokenizer, ids)
    assert text == f"Sure, the dog is {tokenizer.seg_text}, the cat."
    pieces = [tokenizer._pieces.id_to_piece(each) if 2 < each < 400 else "" for each in ids]
    where = [at for at, piece in enumerate(pieces) if piece]
    assert "".join(pieces[at] for at in where) == "▁Sure,▁the▁dog▁is▁,▁the▁cat."
    assert "".join(parts[at] for at in where) == "Sure, the dog is, the cat."
    for at in where:  # white space around a run goes, inside it stays
        assert parts[at] in (pieces[at].replace("▁", " "), pieces[at].strip("▁"))
    marks = [parts[at] for at, each in enumerate(ids) if each in tokenizer.seg_ids]
    assert " ".join(marks) == tokenizer.seg_text
    assert (parts[0], parts[-1]) == ("", "")  # <s> and </s>


def test_the_bytes_of_a_character_share_its_place(tokenizer):
    ids = tokenizer.encode("café 犬", bos=False)
    text, parts = places_of(tokenizer, ids)
    assert (text, parts) == ("café 犬", ["c", "a", "f", "é", "é", " ", "犬", "犬", "犬"])
    dog = ids[-3:]
    assert places_of(tokenizer, [dog[0], 0, *dog[1:]]) == ("犬", ["犬", "", "犬", "犬"])
    assert places_of(tokenizer, [*dog[:2], *dog]) == (
        "\ufffd\ufffd犬",
        [*"\ufffd\ufffd", *"犬犬犬"],
    )
    assert places_of(tokenizer, [*dog, *dog])[0] == "犬犬"
    assert tokenizer.decode_with_places([*dog, *dog])[1] == ((0, 1),) * 3 + ((1, 2),) * 3


def test_what_is_left_out_has_no_place(tokenizer):
    ids = [1, *tokenizer.encode("the", bos=False), 0, 5000, *tokenizer.encode("dog", bos=False), 2]
    text, parts = places_of(tokenizer, ids)
    assert text == "the dog" == "".join(parts)
    nowhere = [at for at, each in enumerate(ids) if not 2 < each < 400]
    assert len(nowhere) == 4
    assert {parts[at] for at in nowhere} == {""}
    assert tokenizer.decode_with_places([]) == ("", ())
    blank = tokenizer._pieces.piece_to_id("▁")
    assert places_of(tokenizer, [blank, blank]) == ("", ["", ""])
    the = tokenizer.encode("the", bos=False)
    text, parts = places_of(tokenizer, [blank, blank, *the, blank])
    assert (text, "".join(parts), parts[0], parts[1], parts[-1]) == ("the", "the", "", "", "")


def test_something_else_can_be_written_for_an_id(tokenizer):
    the, dog = (tokenizer.encode(word, bos=False) for word in ("the", "dog"))
    ids = [*the, 400, 401, *dog, 2]
    first = len(the)
    text, places = tokenizer.decode_with_places(ids, {first: "[it]", first + 1: ""})
    assert text == "the [it] dog"
    assert places[first] == (4, 8)
    assert places[first + 1][0] == places[first + 1][1]
    assert places[first + 2][0] == 9


def test_facts_come_from_the_files(tokenizer):
    assert tokenizer.seg_ids == tuple(META["seg_token_ids"])
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert tokenizer.vocab_size == 408
    assert tokenizer.added["<im_start>"] == 406


@pytest.mark.parametrize("prompt", ["no image", "<image> and <image>"])
def test_a_prompt_without_exactly_one_image_is_refused(tokenizer, prompt):
    with pytest.raises(InstructionError, match="needs one '<image>'"):
        tokenizer.encode_prompt(prompt)


def test_saving_writes_the_same_files(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new")
    for name in FILES:
        original = (FIXTURE / "hf_model" / name).read_bytes()
        assert (tmp_path / "new" / name).read_bytes() == original


@pytest.mark.parametrize("name", [MODEL_FILE, ADDED_FILE])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize("name", FILES)
def test_an_unreadable_file_is_named(folder, name):
    (folder / name).write_bytes(b"\xff[garbage")
    with pytest.raises(CheckpointError, match=name):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"[SEG2]": None}, "without a gap"),
        ({"[SEG]": 410}, "without a gap"),
        ({"[SEG1]": 400}, "same id"),
        ({"[SEG0]": 7}, "ids start at 400"),
        ({"[SEG0]": "400"}, "ids start at 400"),
        ({"<im_end>": None}, "<im_end>"),
        ({"</s>": 409, "<unk>": 3}, "ids start at 400"),
    ],
)
def test_contradictory_added_tokens_are_refused(folder, changes, message):
    added = json.loads((folder / ADDED_FILE).read_text()) | changes
    kept = {token: index for token, index in added.items() if index is not None}
    (folder / ADDED_FILE).write_text(json.dumps(kept))
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.from_folder(folder)


def test_core_tokens_may_be_listed_among_the_added_ones(folder, tokenizer):
    added = json.loads((folder / ADDED_FILE).read_text()) | {"<unk>": 0, "<s>": 1, "</s>": 2}
    (folder / ADDED_FILE).write_text(json.dumps(added))
    assert Tokenizer.from_folder(folder).added == tokenizer.added


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [(CONFIG_FILE, "legacy", False), (MAP_FILE, "eos_token", "<end>")],
)
def test_settings_of_another_tokenizer_are_refused(folder, name, key, value):
    settings = json.loads((folder / name).read_text()) | {key: value}
    (folder / name).write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=name):
        Tokenizer.from_folder(folder)


def test_a_single_codebook_token_is_called_seg():
    tokenizer = train_tokenizer(CORPUS, 70, groups=1)
    assert tokenizer.seg_ids == (70,)
    assert tokenizer.seg_text == "[SEG]"


def test_training_twice_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        train_tokenizer(CORPUS, 90, groups=6).save(tmp_path / name)
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    again = Tokenizer.from_folder(tmp_path / "one")
    assert again.seg_ids == (90, 91, 92, 93, 94, 95)
    assert again.vocab_size == 98


def test_a_trained_tokenizer_reads_what_it_writes():
    tokenizer = train_tokenizer(iter(CORPUS), 90, groups=6)
    text = f"the small blue star {tokenizer.seg_text}, the circle {tokenizer.seg_text}."
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_large_vocabulary_spells_unknown_characters_in_bytes():
    letters = "abcdefghijklmnopqrst"
    words = [f"{a}{b}{c} {c}{a}" for a in letters for b in letters for c in letters]
    tokenizer = train_tokenizer(words, MIN_BYTE_FALLBACK_VOCABULARY, groups=6)
    ids = tokenizer.encode("é 犬")
    assert tokenizer.pad_id not in ids
    assert tokenizer.decode(ids) == "é 犬"


def test_a_corpus_that_cannot_fill_the_vocabulary_is_refused():
    with pytest.raises(ConfigError, match="5000"):
        train_tokenizer(CORPUS, 5000, groups=6)
