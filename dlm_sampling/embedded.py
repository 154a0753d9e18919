"""List the models that are shipped inside the package, and find their folders."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from dlm_sampling.errors import unknown_choice


def embedded_models() -> tuple[str, ...]:
    """Return the names of the models inside the package, sorted."""
    return tuple(sorted(path.parent.name for path in _folder().glob("*/config.json")))


def embedded_path(name: str) -> Path:
    """Return the folder of an embedded model, for `AutoDenoiser.from_pretrained`.

    Args:
        name: one of `embedded_models()`: "tiny-books" (text, masks), "tiny-books-uniform" (text,
            uniform noise) or "sudoku4x4".

    Raises:
        ValueError: there is no such model; the message lists the names.
    """
    names = embedded_models()
    if name not in names:
        raise unknown_choice("name", name, names)
    return _folder() / name


def _folder() -> Path:
    return Path(str(files("dlm_sampling"))) / "models"
