import pytest

from workers.errors import SettingsError
from workers.yaml_files import read_yaml


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
