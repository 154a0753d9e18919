"""Turn a JSON schema into a regular expression, and refuse what the expression would not keep.

The expression is outlines-core's: objects with their properties in the order of the schema, strings
without line breaks, recursion to a fixed depth.  Everything that it accepts is valid; it does not
accept everything that is valid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from dlm_sampling.constraints.expressions import require_compiler
from dlm_sampling.errors import closest

DEPTH = 3  # levels of a schema that refers to itself

NOTES = {"title", "description", "default", "examples", "$schema", "$id", "$comment"}
READ = {
    "type", "properties", "required", "items", "prefixItems", "enum", "const", "anyOf", "$ref",
    "$defs", "definitions", "minLength", "maxLength", "pattern", "minItems", "maxItems", "format",
}  # fmt: skip
FORMATS = {"date", "date-time", "time", "uuid"}


def schema_expression(schema: object, whitespace: str | None = None) -> str:
    """Return an expression whose matches are JSON that the schema allows.

    Args:
        schema: a mapping, or the JSON of one.
        whitespace: expression of the space between the parts of the JSON; None for one space or
            none.

    Raises:
        ImportError: outlines-core is not installed.
        ValueError: the schema is malformed, or has a keyword that an expression cannot keep.
    """
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except json.JSONDecodeError as error:
            raise ValueError(f"json_schema: is no JSON ({error}).") from None
    if not isinstance(schema, Mapping):
        raise ValueError(
            f"json_schema={schema!r}: must be a mapping, such as "
            '{"type": "object", "properties": {"age": {"type": "integer"}}}.'
        )
    _check(cast("Mapping[str, Any]", schema), "json_schema")
    require_compiler()
    build: Any = import_module("outlines_core").json_schema.build_regex_from_schema
    try:
        return str(build(json.dumps(schema), whitespace, DEPTH))
    except ValueError as error:
        raise ValueError(f"json_schema: cannot be read ({error}).") from None


def _check(schema: Mapping[str, Any], where: str) -> None:
    """Refuse the first keyword that the expression would pass over.

    Raises:
        ValueError: there is one.
    """
    for key, value in schema.items():
        if key == "additionalProperties" and value is False:
            continue
        if key not in READ | NOTES:
            near = closest(key, READ)
            hint = f" Did you mean {near!r}?" if near else ""
            raise ValueError(
                f"{where}: {key!r} cannot be kept by a regular expression; allowed are "
                f"{', '.join(sorted(READ))}.{hint}"
            )
        if key == "format" and value not in FORMATS:
            raise ValueError(f"{where}: format {value!r} must be one of {sorted(FORMATS)}.")
        if key in ("properties", "$defs", "definitions"):
            for name, part in value.items():
                _check(part, f"{where}.{key}.{name}")
        elif key in ("anyOf", "prefixItems"):
            for i, part in enumerate(value):
                _check(part, f"{where}.{key}[{i}]")
        elif key == "items" and isinstance(value, Mapping):
            _check(cast("Mapping[str, Any]", value), f"{where}.items")
