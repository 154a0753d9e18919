"""Tokenizers of the kinds that checkpoints have, trained on a few sentences."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from dlm_sampling import wrap
from dlm_sampling.denoisers import Denoiser

SENTENCES = [
    "Once upon a time there was a wayfarer, far away.",
    "A time of rain: the wayfarer said: stop! Question: why?",
    "Zoë saw 東京 and the café at half past one.\n\nThe end.",
]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% if hurry %}now {% endif %}{% endif %}"
)
KINDS = ["byte-level", "metaspace", "wordpiece"]


@cache
def tokenizer(kind: str) -> Any:
    """Byte-level BPE without special tokens around a text, SentencePiece's unigram model with a
    begin token, or WordPiece in lower case between [CLS] and [SEP]."""
    special = ["<s>", "</s>", "<pad>", "<mask>"]
    around: dict[str, Any] = {}
    if kind == "byte-level":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    elif kind == "metaspace":
        core = Tokenizer(models.Unigram())
        core.pre_tokenizer = pre_tokenizers.Metaspace()
        core.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=90,
            special_tokens=[*special, "<unk>"],
            unk_token="<unk>",
            show_progress=False,
        )
        around = {"single": "<s> $A", "special_tokens": [("<s>", 0)]}
    else:
        special = ["[CLS]", "[SEP]", "[PAD]", "[MASK]"]
        core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        core.normalizer = normalizers.BertNormalizer(lowercase=True)
        core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        core.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=120, special_tokens=[*special, "[UNK]"], show_progress=False
        )
        around = {
            "single": "[CLS] $A [SEP]",
            "special_tokens": [("[CLS]", 0), ("[SEP]", 1)],
        }
    core.train_from_iterator(SENTENCES, trainer)
    if around:
        core.post_processor = processors.TemplateProcessing(**around)
    begin, end, pad, mask = special
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=begin, eos_token=end, pad_token=pad, mask_token=mask
    )
    made.chat_template = TEMPLATE
    return made


def script(
    kind: str, *completions: str | list[int], prompt: int = 0, sure: float = 50.0
) -> Denoiser:
    """A denoiser that writes given texts: row b the completion b, from column `prompt` on."""
    own = tokenizer(kind)
    rows = [ids_of(own, c) if isinstance(c, str) else c for c in completions]

    def logits(input_ids: Tensor) -> Tensor:
        table = torch.full(input_ids.shape, own.pad_token_id)
        for b, row in enumerate(rows[: len(table)]):
            kept = row[: table.shape[1] - prompt]
            table[b, prompt : prompt + len(kept)] = torch.tensor(kept)
        return torch.nn.functional.one_hot(table, len(own)) * sure

    return wrap(
        logits, vocab_size=len(own), mask_token_id=own.mask_token_id, tokenizer=own,
        eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id,
    )  # fmt: skip


def ids_of(own: Any, text: str) -> list[int]:
    """The tokens of a text inside a sentence, without special tokens."""
    return list(own(text, add_special_tokens=False)["input_ids"])
