import pytest

from tests.structural import META, problems

SCHEMA = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "minLength": 2, "pattern": "^[a-z]+$"},
        "count": {"type": "integer", "minimum": 1},
        "mode": {"type": "string", "enum": ["on", "off"]},
        "port": {"x-kubernetes-int-or-string": True},
        "rules": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "object", "properties": {"ok": {"type": "boolean"}}},
        },
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "empty": {"type": "object"},
    },
}


def test_a_value_that_keeps_to_its_schema_has_no_problems():
    value = {
        "name": "ab",
        "count": 1,
        "mode": "on",
        "port": "http",
        "rules": [{"ok": True}],
        "labels": {"any": "thing"},
        "free": {"any": 1},
        "empty": {},
    }
    assert list(problems(value, SCHEMA)) == []


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"nmae": "x"}, ": unknown key nmae"),
        ({"name": "a"}, ".name: 1 is not between 2 and None"),
        ({"name": "A1"}, ".name: 'A1' is not like ^[a-z]+$"),
        ({"name": 3}, ".name: 3 is no string"),
        ({"count": 0}, ".count: 0 is not between 1 and None"),
        ({"count": True}, ".count: True is no integer"),
        ({"mode": "yes"}, ".mode: 'yes' is none of ['on', 'off']"),
        ({"port": 1.5}, ".port: 1.5 is no number or text"),
        ({"rules": []}, ".rules: 0 is not between 1 and None"),
        ({"rules": [{"okay": True}]}, ".rules[0]: unknown key okay"),
        ({"rules": [{"ok": "yes"}]}, ".rules[0].ok: 'yes' is no boolean"),
        ({"labels": {"any": 1}}, ".labels.any: 1 is no string"),
        ({"empty": {"any": 1}}, ".empty: unknown key any"),
    ],
)
def test_what_a_schema_does_not_know_is_told_with_its_place(more, problem):
    assert list(problems({"name": "ab", **more}, SCHEMA)) == [problem]


def test_what_is_required_is_missed():
    assert list(problems({}, META)) == [": name is missing"]
