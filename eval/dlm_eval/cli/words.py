"""Write a command out again from the values that it was given."""

from __future__ import annotations

import shlex
from typing import Any

import typer


def command_line(context: typer.Context) -> str:
    """Return the command with all values that differ from their defaults, for a report."""
    words = ["dlm-sampling", "eval", str(context.info_name)]
    for parameter in context.command.params:
        value: Any = context.params.get(str(parameter.name))
        if value is None or value == parameter.get_default(context) or value in ([], ()):
            continue
        option = max(parameter.opts, key=len)
        if not option.startswith("-"):
            words.append(str(value))
        elif value is True:
            words.append(option)
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                words += [option, str(one)]
    return shlex.join(words)
