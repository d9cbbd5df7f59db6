"""What a value has that a structural schema does not know, as Kubernetes' definitions are written.

An API server drops unknown keys without a word, so a misspelt one is found by nobody: here it is a
problem. Rules in CEL (`x-kubernetes-validations`) are not looked at.
"""

import re
from collections.abc import Iterator
from typing import Any

TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}
META = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["name"],
}
"""Of an object itself: definitions leave it to Kubernetes."""


def problems(value: Any, schema: dict[str, Any], place: str = "") -> Iterator[str]:
    """A line for each, with its place."""
    if not _is_of_type(value, schema):
        yield f"{place}: {value!r} is no {schema.get('type', 'number or text')}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{place}: {value!r} is none of {schema['enum']}"
    elif isinstance(value, dict):
        yield from _of_object(value, schema, place)
    elif isinstance(value, list):
        yield from _of_size(len(value), schema.get("minItems"), schema.get("maxItems"), place)
        for number, item in enumerate(value):
            yield from problems(item, schema.get("items", {}), f"{place}[{number}]")
    elif isinstance(value, str):
        yield from _of_size(len(value), schema.get("minLength"), schema.get("maxLength"), place)
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{place}: {value!r} is not like {schema['pattern']}"
    elif value is not None:
        yield from _of_size(value, schema.get("minimum"), schema.get("maximum"), place)


def _is_of_type(value: Any, schema: dict[str, Any]) -> bool:
    if schema.get("x-kubernetes-int-or-string"):
        return isinstance(value, int | str) and not isinstance(value, bool)
    kind = schema.get("type")
    if kind is None:
        return True
    return isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _of_object(value: dict[str, Any], schema: dict[str, Any], place: str) -> Iterator[str]:
    for name in schema.get("required", []):
        if name not in value:
            yield f"{place}: {name} is missing"
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name, item in value.items():
        inner = known.get(name, others)
        if isinstance(inner, dict):
            yield from problems(item, inner, f"{place}.{name}")
        elif not (inner or schema.get("x-kubernetes-preserve-unknown-fields")):
            yield f"{place}: unknown key {name}"


def _of_size(size: float, least: float | None, most: float | None, place: str) -> Iterator[str]:
    if (least is not None and size < least) or (most is not None and size > most):
        yield f"{place}: {size} is not between {least} and {most}"
