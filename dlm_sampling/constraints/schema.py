"""Turn a JSON schema into a regular expression, and refuse what the expression would not keep.

The expression is outlines-core's: objects with their properties in the order of the schema, strings
without line breaks, recursion to a fixed depth.  Everything that it accepts is valid; it does not
accept everything that is valid.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, cast

from dlm_sampling.constraints.expressions import expression_dfa, require_compiler
from dlm_sampling.errors import closest, named

DEPTH = 3  # levels of a schema that refers to itself

NOTES = {"title", "description", "default", "examples", "$schema", "$id", "$comment"}
TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
FORMATS = ("date", "date-time", "time", "uuid")
REMEDIES = {  # keywords of the standard that are not read, and what to write instead
    **dict.fromkeys(
        ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        "list the numbers in enum, or check the text afterwards",
    ),
    "oneOf": "write anyOf",
    "allOf": "write its parts as one schema",
    "additionalProperties": "name all of them in properties; no others are written",
    "patternProperties": "name all of them in properties; no others are written",
    "nullable": 'write "type": ["string", "null"]',
}
EXAMPLE = '{"type": "object", "properties": {"age": {"type": "integer"}}}'
_SHAPES = ("type", "properties", "prefixItems", "enum", "const", "anyOf", "$ref")
_LENGTHS = (("minLength", "maxLength"), ("minItems", "maxItems"))


def schema_expression(schema: object, whitespace: str | None = None) -> str:
    """Return an expression whose matches are JSON that the schema allows.

    Args:
        schema: a mapping, or the JSON of one.
        whitespace: expression of the space between the parts of the JSON; None for one space or
            none.

    Raises:
        ImportError: outlines-core is not installed.
        ValueError: the schema is malformed, or has a keyword that an expression cannot keep; the
            message has its path in the schema.
    """
    if isinstance(schema, str):
        schema = _read(schema)
    if not isinstance(schema, Mapping):
        raise ValueError(
            f"json_schema is {named(schema)}: must be a mapping, such as {EXAMPLE}; of a pydantic "
            "model it is Model.model_json_schema()."
        )
    whole = cast("Mapping[str, Any]", schema)
    _Reader(whole).check(whole, "json_schema")
    require_compiler()
    if whitespace is not None:
        expression_dfa(whitespace, "whitespace")
    build: Any = import_module("outlines_core").json_schema.build_regex_from_schema
    try:
        return str(build(json.dumps(schema), whitespace, DEPTH))
    except (ValueError, TypeError) as error:
        said = str(error).split("\n")[0].rstrip(" .")
        raise ValueError(f"json_schema: cannot be read ({said}).") from None


def _read(text: str) -> object:
    """Return the value of a text in JSON.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"json_schema, line {error.lineno}, column {error.colno}"
        hint = "" if "{" in text else f" It is the schema itself, such as {EXAMPLE}, no file."
        raise ValueError(f"{place}: is no JSON ({error.msg}).{hint}") from None


def _refuse(where: str, what: str) -> ValueError:
    return ValueError(f"{where}: {what}.")


class _Reader:
    """Refuse what an expression cannot keep, by its path in the schema.

    Args:
        root: the whole schema, in which references are looked up.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self.read: Mapping[str, Callable[[Any, str], None]] = {
            "type": self._type,
            "properties": self._named,
            "$defs": self._named,
            "definitions": self._named,
            "items": self.check,
            "prefixItems": self._listed,
            "anyOf": self._listed,
            "enum": self._enum,
            "const": lambda value, where: None,
            "$ref": self._reference,
            "required": self._names,
            "pattern": self._pattern,
            "format": lambda value, where: _check_choice(value, where, FORMATS),
            **{name: _check_count for pair in _LENGTHS for name in pair},
        }

    def check(self, schema: Any, where: str) -> None:
        """Refuse the first part of a schema that the expression would pass over, or not know.

        Raises:
            ValueError: there is one.
        """
        if not isinstance(schema, Mapping):
            raise _refuse(where, f"{schema!r} must be a schema, such as {{'type': 'string'}}")
        parts = cast("Mapping[str, Any]", schema)
        for key, value in parts.items():
            if key in self.read:
                self.read[key](value, f"{where}.{key}")
            elif key not in NOTES and not (key == "additionalProperties" and value is False):
                raise self._unknown(key, where)
        missing = [name for name in parts.get("required", ()) if name not in _properties(parts)]
        if missing:
            raise _refuse(f"{where}.required", f"{missing[0]!r} is not among the properties")
        for low, high in _LENGTHS:
            if parts.get(low, 0) > parts.get(high, parts.get(low, 0)):
                raise _refuse(where, f"{low}={parts[low]} is more than {high}={parts[high]}")
        if parts and not any(shape in parts for shape in _SHAPES):
            raise _refuse(where, f"says of no value what it is; give one of {', '.join(_SHAPES)}")

    def _unknown(self, key: str, where: str) -> ValueError:
        near = closest(key, self.read)
        hint = f"Did you mean {near!r}?" if near and key not in REMEDIES else ""
        if key in REMEDIES:
            hint = f"Instead {REMEDIES[key]}."
        return ValueError(
            f"{where}: {key!r} cannot be kept by a regular expression; allowed are "
            f"{', '.join(sorted(self.read))}. {hint}".rstrip()
        )

    def _type(self, value: Any, where: str) -> None:
        for name in _full(value, where, "types") if isinstance(value, list) else [value]:
            _check_choice(name, where, TYPES)

    def _named(self, value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise _refuse(where, f"{value!r} must be a mapping of names to schemas")
        for name, part in cast("Mapping[str, Any]", value).items():
            self.check(part, f"{where}.{name}")

    def _listed(self, value: Any, where: str) -> None:
        for i, part in enumerate(_full(value, where, "schemas")):
            self.check(part, f"{where}[{i}]")

    def _enum(self, value: Any, where: str) -> None:
        _full(value, where, "values")

    def _names(self, value: Any, where: str) -> None:
        if not isinstance(value, list | tuple) or not all(
            isinstance(name, str) for name in cast("Sequence[object]", value)
        ):
            raise _refuse(where, f"{value!r} must be a list of names")

    def _reference(self, value: Any, where: str) -> None:
        if not isinstance(value, str) or not value.startswith("#"):
            raise _refuse(where, f"{value!r} must be a reference within the schema, #/$defs/name")
        at: Any = self.root
        for part in value.removeprefix("#").split("/")[1:]:
            if not isinstance(at, Mapping) or part not in at:
                raise _refuse(where, f"{value!r} leads nowhere: there is no {part!r}")
            at = cast("Mapping[str, Any]", at)[part]

    def _pattern(self, value: Any, where: str) -> None:
        if not isinstance(value, str):
            raise _refuse(where, f"{value!r} must be an expression as a string")
        expression_dfa(value.removeprefix("^").removesuffix("$"), where)


def _properties(schema: Mapping[str, Any]) -> Iterable[str]:
    return cast("Mapping[str, Any]", schema.get("properties", {}))


def _full(value: Any, where: str, what: str) -> Sequence[Any]:
    """Return a list after checking that it is one, and not empty."""
    if not isinstance(value, list | tuple) or not value:
        raise _refuse(where, f"{value!r} must be a list of {what}, at least one")
    return cast("Sequence[Any]", value)


def _check_choice(value: object, where: str, choices: Sequence[str]) -> None:
    if value not in choices:
        near = closest(value, choices) if isinstance(value, str) else None
        hint = f" Did you mean {near!r}?" if near else ""
        raise ValueError(f"{where}: {value!r} must be one of {', '.join(choices)}.{hint}")


def _check_count(value: object, where: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _refuse(where, f"{value!r} must be a whole number of at least 0")
