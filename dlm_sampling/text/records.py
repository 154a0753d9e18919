"""Turn a row of an output into a record for JSON lines and tables."""

from __future__ import annotations

from typing import Any

from dlm_sampling.errors import UsageError
from dlm_sampling.text.completion import GenerateOutput
from dlm_sampling.text.prompt_items import PromptItem


def row_head(item: PromptItem, index: int, sample: int) -> dict[str, Any]:
    """Return the entries that a record begins with, which are known before its row is run."""
    named = {} if item.name is None else {"id": item.name}
    return named | {"index": index, "sample": sample, "prompt": item.prompt}


def row_record(
    item: PromptItem, index: int, sample: int, output: GenerateOutput, row: int
) -> dict[str, Any]:
    """Return the record of one row: its prompt, text, ids, and their cost.

    Args:
        item: the prompt.
        index: number of the prompt.
        sample: number of the row among those of its prompt.
        output: the output of a batch.
        row: the row in that batch.

    Raises:
        UsageError: the model has no tokenizer.
    """
    if output.texts is None:
        raise UsageError("The model has no tokenizer: add its files to the folder.")
    return row_head(item, index, sample) | {
        "text": output.texts[row],
        "token_ids": output.token_ids[row],
        "finish_reason": output.finish_reasons[row],
        "logprob": float(output.logprobs[row].sum()),
        "nfe": int(output.nfe[row]),
        "work": float(output.work[row]),
        "steps": int(output.steps[row]),
        "row_seed": output.seeds[row],
    }
