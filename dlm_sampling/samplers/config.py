"""Read and write a sampler as JSON: a checkpoint may bring one in its `sampler_config.json`.

    {"format": 1, "sampler": "remdm-cap", "sampler_options": {"eta": 0.02},
     "temperature": 0.8, "top_p": 0.9, "block_length": 8}

`generate(denoiser, ...)` without a `sampler` uses the file that was loaded with the denoiser.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dlm_sampling.errors import check_arguments, check_fields
from dlm_sampling.samplers.base import SamplerBase
from dlm_sampling.samplers.by_name import create
from dlm_sampling.types import Crossing, TokenLaw

FILE_NAME = "sampler_config.json"
FORMAT = 1


@dataclass(frozen=True)
class SamplerConfig:
    """Hold a sampler by name with its parameters, and the settings of `generate` that go with it.

    Fields:
        sampler: public name.
        sampler_options: its parameters, JSON values.
        temperature, top_k, top_p, min_p, crossing, typical_p, eta_cutoff, top_n_sigma,
            repetition_penalty, presence_penalty: token law; None leaves the sampler's own.
        block_length: block length; None leaves a single block.
        notes: source of the values.
    """

    sampler: str
    sampler_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    crossing: Crossing | None = None
    typical_p: float | None = None
    eta_cutoff: float | None = None
    top_n_sigma: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    block_length: int | None = None
    notes: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        create(self.sampler, **self.sampler_options)
        law = {
            k: v
            for k, v in asdict(self).items()
            if k in TokenLaw.__dataclass_fields__ and v is not None
        }
        TokenLaw(**law)
        if self.block_length is not None and self.block_length < 1:
            raise ValueError(
                f"block_length={self.block_length}: must be at least 1, or absent for a "
                "single block."
            )

    def build(self) -> SamplerBase[Any]:
        """Build the sampler."""
        return create(self.sampler, **self.sampler_options)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; fields that are None are left out."""
        return {"format": FORMAT, **{k: v for k, v in asdict(self).items() if v is not None}}


def from_config(config: Mapping[str, Any]) -> SamplerConfig:
    """Read the JSON form.

    Raises:
        ValueError: another format number, unknown sampler, or a parameter out of range.
        TypeError: an unknown field.
    """
    fields = dict(config)
    version = fields.pop("format", FORMAT)
    if version != FORMAT:
        raise ValueError(
            f"sampler config has format {version!r}: this version reads {FORMAT}. Update "
            "dlm_sampling."
        )
    if "sampler" not in fields:
        raise ValueError(
            'sampler config has no "sampler": give the name, e.g. {"sampler": "llada"}.'
        )
    check_arguments(fields, SamplerConfig.__dataclass_fields__)
    return SamplerConfig(**fields)


def save_config(config: SamplerConfig, folder: str | Path) -> Path:
    """Write `sampler_config.json` into a checkpoint folder, and return its path."""
    path = Path(folder) / FILE_NAME
    path.write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
    return path


def load_config(path: str | Path) -> SamplerConfig:
    """Read the config from a file, or from the folder that holds it.

    Raises:
        FileNotFoundError: there is none.
        ValueError, TypeError: see `from_config`; also for a file that is not JSON.
    """
    file = Path(path)
    file = file / FILE_NAME if file.is_dir() else file
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: no sampler config there. Write one with samplers.save_config(config, folder)."
        )
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file} is not JSON ({error}). Write it with samplers.save_config(config, folder)."
        ) from None
    return from_config(fields)
