import pytest

from workers.errors import SettingsError
from workers.yaml_files import find_place, read_yaml


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("a: [1, x]", {"a": [1, "x"]}),
        (b"a: caf\xc3\xa9", {"a": "café"}),
        (b'{"json": null}', {"json": None}),
        (b"", None),
    ],
)
def test_a_document_is_read(data, value):
    assert read_yaml(data, "x") == value


ODD = ["!!bool foo", "!!timestamp foo", "!!int ''", "a: \0"]  # a KeyError of PyYAML, and so on


@pytest.mark.parametrize(
    "data", ["a: [", b"caf\xe9: 1", "a: !!python/name:os.system", "[" * 5000, *ODD]
)
def test_what_is_no_yaml_is_told_in_one_line_that_names_the_file(data):
    with pytest.raises(SettingsError, match=r"^run\.yaml is no YAML: ") as caught:
        read_yaml(data, "run.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "place", "advice"),
    [
        ("a:\n\tb: 8", r"line 2, column 1, `\tb: 8`", "there is a tab: put spaces"),
        ("a:\tb", r"line 1, column 3, `a:\tb`", "there is a tab: put spaces"),
        ("a: 1\nb:3\nc: 2", "line 2, column 1, `b:3`", "a colon and a space belong behind"),
        ("a:1\nb: 3", "line 2, column 2, `b: 3`", "look at the line before: a space may be"),
        ("a: 'x\nb: 1", "line 1, column 4, `a: 'x`", "the quote that opens here is never closed"),
        ("a: 'it's red'", "line 1, column 8, `a: 'it's red'`", "behind its closing quote"),
        ("a: the mug: red", "line 1, column 11, `a: the mug: red`", "a colon inside a text: put"),
        ("b:\n    c: 1\n  d: 2", "line 3, column 3, `d: 2`", "indented unlike the lines before"),
        ("b: 1\n- a", "line 2, column 1, `- a`", "a list item stands where"),
        ("a: [b, c\nd: 1", "line 1, column 4, `a: [b, c`", "'[' is not closed"),
        ("a: {b: c", "line 1, column 4, `a: {b: c`", "'{' is not closed"),
        ("a: @home", "line 1, column 4, `a: @home`", "no text can begin with @: put all"),
        ("a: *mug", "line 1, column 4, `a: *mug`", "a '*' before a word means something else"),
        ('a: "C:\\Users"', 'line 1, column 4, `a: "C:\\Users"`', "take single quotes"),
        ("a: 1\n---\nb: 2", "line 2, column 1, `---`", "take out the '---'"),
        ("a: b: " + "x" * 54, "`a: b: " + "x" * 54 + "`", "a colon inside a text"),
        ("a: " + "x" * 99 + ": b", "`a: " + "x" * 57 + "...`", "a colon inside a text"),
    ],
)
def test_a_common_mistake_is_told_with_its_place_and_the_way_out(data, place, advice):
    for form in (
        data,
        data.encode(),
        data.replace("\n", "\r\n").encode("utf-8-sig"),
        data.encode("utf-16"),
    ):
        with pytest.raises(SettingsError) as caught:
            read_yaml(form, "run.yaml")
        message = str(caught.value)
        assert message.startswith("run.yaml is no YAML: line ")
        assert place in message
        assert advice in message
        assert "while scanning" not in message


def test_bytes_that_are_no_text_are_told_with_their_place():
    with pytest.raises(SettingsError, match="is no YAML: not utf-8 at byte 3: save it as UTF-8"):
        read_yaml(b"caf\xe9: 1", "run.yaml")
    for text in ("a: café".encode("utf-16"), "\ufeffa: café".encode("utf-16-be")):
        assert read_yaml(text, "run.yaml") == {"a": "café"}


def test_a_name_is_found_where_it_stands():
    data = b"a: 1\nb:\n  c: 2\n"
    assert find_place(data, ["b", "c"]) == "line 3, column 3"
    assert find_place(data, ["b", "d"]) == "line 2, column 1"  # the nearest around it
    assert find_place(b"- b", ["b"]) == ""


def test_of_a_name_that_stands_twice_the_one_that_counts_is_found():
    data = b"a: 1\nb: 2\na: 3\n"
    assert read_yaml(data, "x") == {"a": 3, "b": 2}
    assert find_place(data, ["a"]) == "line 3, column 1"


LISTS = "a0: &a0 [x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)


@pytest.mark.parametrize("text", [LISTS, MERGES, "a: &a [*a]"], ids=["lists", "merges", "itself"])
def test_a_few_lines_that_stand_for_billions_of_values_are_refused(text):
    with pytest.raises(SettingsError, match=r"its aliases \(\*\) repeat each other"):
        read_yaml(text, "x")


def test_aliases_may_be_used():
    text = "base: &base {a: 1, b: [1, 2]}\nmore: {<<: *base, c: *base}"
    base = {"a": 1, "b": [1, 2]}
    assert read_yaml(text, "x") == {"base": base, "more": {**base, "c": base}}
