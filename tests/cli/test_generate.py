"""The verb `generate`: results, settings, batches, and one line about what is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.process import SHORT, Command, assert_one_line
from tests.tiny import CONTEXT


def test_text_with_its_prompt(command: Command, tiny: str) -> None:
    result = command("generate", "Once upon", "--model", tiny, *SHORT)
    assert result.code == 0
    assert result.out.startswith("Once upon")
    assert result.out.endswith("\n")
    assert re.fullmatch(
        r"ancestral, seed 0, \d+ NFE, [\d.]+ s on cpu in float32, about [\d.]+ kB "
        r"for 1 x 21 tokens \(weights 20.1 kB, and the larger of logits [\d.]+ kB and "
        r"activations [\d.]+ kB\)\n",
        result.err,
    )


def test_the_closing_line_tells_the_work_of_a_cache_and_whether_it_is_exact(
    command: Command,
) -> None:
    words = ("generate", "Once", "--max-new-tokens", "16", "--block-length", "8", "--steps", "8")
    cached = command(*words, "--sampler", "fast-dllm", "--cache", "dual").err
    found = re.search(r"(\d+) NFE, work ([\d.]+) \(approximate DualCache\(\)\), ", cached)
    assert found is not None, cached
    from dlm_sampling import AutoDenoiser, generate

    out = generate(
        AutoDenoiser.from_pretrained("tiny-books"), "Once", sampler="fast-dllm", cache="dual",
        max_new_tokens=16, block_length=8, steps=8, seed=0,
    )  # fmt: skip
    assert (found[1], found[2]) == (str(int(out.nfe)), f"{float(out.work):.1f}")
    assert float(out.work) < int(out.nfe)
    assert ", work " not in command(*words, "--sampler", "fast-dllm").err


def test_seed_repeats_and_matters(command: Command, tiny: str) -> None:
    first = command("generate", "Once", "--model", tiny, *SHORT, "--seed", "7")
    again = command("generate", "Once", "--model", tiny, *SHORT, "--seed", "7")
    other = command("generate", "Once", "--model", tiny, *SHORT, "--seed", "8")
    assert first.out == again.out != other.out
    assert "seed 7" in first.err


def test_json_line_repeats_from_python(command: Command, tiny: str) -> None:
    from dlm_sampling import AutoDenoiser, generate

    result = command("generate", "Once", "--model", tiny, *SHORT, "--json", "-n", "3", "-q")
    assert result.err == ""
    records = [json.loads(line) for line in result.out.splitlines()]
    assert [r["sample"] for r in records] == [0, 1, 2]
    assert {r["sampler"] for r in records} == {"ancestral"}
    assert {r["finish_reason"] for r in records} <= {"length", "eos"}
    denoiser = AutoDenoiser.from_pretrained(tiny)
    seed = [records[2]["row_seed"]]
    output = generate(denoiser, "Once", sampler="ancestral", max_new_tokens=12, seed=seed)
    assert output.token_ids[0] == records[2]["token_ids"]
    assert output.texts == [records[2]["text"]]
    assert output.nfe.tolist() == [records[2]["nfe"]]


def test_budgets_drafts_and_policies_with_fields(command: Command, tiny: str) -> None:
    """A budget is kept, drafts change no token, and a cache that is always fresh neither."""
    found: list[dict[str, Any]] = []
    for words in ("", "--max-nfe 3", "--speculate 3", "--cache dkv:every=1,warm_up=2"):
        options = (*SHORT, "--temperature", "1", "--json", "-q", *words.split())
        found.append(json.loads(command("generate", "Once", "--model", tiny, *options).out))
    plain, bounded, drafted, cached = found
    assert 0 < bounded["nfe"] <= 3 < plain["nfe"]
    assert drafted["token_ids"] == cached["token_ids"] == plain["token_ids"]
    assert drafted["options"] == plain["options"] != cached["options"]
    assert bounded["options"] != plain["options"]


def test_results_do_not_depend_on_the_batch(command: Command, tiny: str, tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": "a" * n, "id": f"row {n}"}) for n in (1, 9, 3, 20, 5)]
    source = tmp_path / "prompts.jsonl"
    source.write_text("\n\n".join(lines), encoding="utf-8")
    options = ("generate", "-i", str(source), "--model", tiny, *SHORT, "--json", "-n", "2", "-q")
    one, many = command(*options, "--batch-size", "1"), command(*options, "--batch-size", "16")
    assert one.code == 0
    records, others = ([json.loads(line) for line in r.out.splitlines()] for r in (one, many))
    for record, other in zip(records, others, strict=True):
        assert record.pop("logprob") == pytest.approx(other.pop("logprob"), abs=1e-3)
    assert records == others
    assert [r["id"] for r in records[::2]] == ["row 1", "row 9", "row 3", "row 20", "row 5"]
    assert [r["index"] for r in records] == [i // 2 for i in range(10)]


def test_mask_tokens_are_filled_in_place(command: Command, tiny: str) -> None:
    result = command("generate", "ab<|mask|><|mask|>ba", "--model", tiny, "--seed", "3")
    assert result.code == 0
    assert re.match(r"ab(.|\n)+ba\n$", result.out)


def test_settings_reach_the_sampler(command: Command, tiny: str) -> None:
    options = ("generate", "Once", "--model", tiny, "--max-new-tokens", "12", "--json", "-q")
    plain = command(*options, "--sampler", "first-hitting")
    four = command(*options, "--sampler", "first-hitting", "--set", "tokens_per_step=4")
    assert json.loads(plain.out)["nfe"] == 12
    assert json.loads(four.out)["nfe"] == 3


def test_unknown_sampler(command: Command, tiny: str) -> None:
    result = command("generate", "x", "--model", tiny, "--sampler", "remmdm")
    assert_one_line(result, 2, "Unknown sampler 'remmdm'", "Did you mean 'remdm-", "samplers")
    theirs = command("generate", "x", "--model", tiny, "--sampler", "low_confidence")
    assert_one_line(theirs, 2, "LLaDA's low_confidence is llada here.")


def test_wrong_settings(command: Command, tiny: str) -> None:
    options = ("generate", "x", "--model", tiny, "--sampler", "remdm-cap")
    assert_one_line(command(*options, "--set", "etta=1"), 2, "Did you mean 'eta'?")
    assert_one_line(command(*options, "--set", "eta=much"), 2, "eta=much", "float")
    assert_one_line(command(*options, "--set", "eta"), 2, "name=value")
    assert_one_line(command(*options, "--set", "eta=-1"), 2, "eta=-1")


def test_prompt_longer_than_the_context(command: Command, tiny: str, tmp_path: Path) -> None:
    result = command("generate", "a" * (CONTEXT + 1), "--model", tiny, "--max-new-tokens", "1")
    assert_one_line(result, 2, "Prompt 0", f"context of {CONTEXT}")
    source = tmp_path / "prompts.txt"
    source.write_text("\n".join(["a"] * 3 + ["b" * 200]), encoding="utf-8")
    later = command("generate", "-i", str(source), "--model", tiny, *SHORT, "--batch-size", "1")
    assert later.code == 2
    assert f"Prompt 3 ({source}, line 4): 200 tokens" in later.err
    assert len(later.err.splitlines()) == 1


def test_missing_and_damaged_checkpoints(command: Command, tiny: str, tmp_path: Path) -> None:
    assert_one_line(command("generate", "x", "--model", str(tmp_path / "none")), 2, "none")
    shard = tmp_path / "shard"
    shutil.copytree(tiny, shard)
    (shard / "model.safetensors").rename(shard / "model-00001-of-00002.safetensors")
    index = {
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors",
        }
    }
    (shard / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    result = command("generate", "x", "--model", str(shard))
    assert_one_line(result, 2, "model-00002-of-00002.safetensors")
    cut = tmp_path / "cut"
    shutil.copytree(tiny, cut)
    os.truncate(cut / "model.safetensors", 5000)
    assert_one_line(command("generate", "x", "--model", str(cut)), 2, "safetensors")
    pickle = tmp_path / "pickle"
    shutil.copytree(tiny, pickle)
    (pickle / "model.safetensors").rename(pickle / "pytorch_model.bin")
    result = command("generate", "x", "--model", str(pickle))
    assert_one_line(result, 2, "pytorch_model.bin", "Pickle files are not loaded")


def test_stop_strings_special_tokens_and_template_reach_generate(
    command: Command, tiny: str, tmp_path: Path
) -> None:
    options = ("generate", "Once", "--model", tiny, *SHORT, "--json", "-q")
    (plain,) = map(json.loads, command(*options).out.splitlines())
    first, second = plain["text"][4], plain["text"][7]
    (cut,) = map(json.loads, command(*options, "--stop", second, "--stop", first).out.splitlines())
    end = min(plain["text"].index(first), plain["text"].index(second))
    assert (cut["text"], cut["finish_reason"]) == (plain["text"][:end], "stop")

    words = ("generate", "Once", "--max-new-tokens", "3", "--temperature", "0", "-q", "--stop")
    assert command(*words, "ime").out == "Once upon a t\n"  # in the middle of a token

    folder = tmp_path / "chat"
    shutil.copytree(tiny, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{{ messages[0]['content'] }}{% if not think %}quiet{% endif %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    core = json.loads((folder / "tokenizer.json").read_text())
    eos = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    core["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [eos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {
            "<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(core))
    source = tmp_path / "chat.jsonl"
    source.write_text(json.dumps({"messages": [{"role": "user", "content": "Hi"}]}))

    def lengths(*more: str) -> list[int]:
        both = command("generate", "--model", str(folder), *SHORT, *more)
        assert both.code == 0, both
        return [int(n) for n in re.findall(r"for 1 x (\d+) tokens", both.err)]

    assert lengths("Once") == [12 + 1 + 4], "with the begin token"
    assert lengths("Once", "--no-add-special-tokens") == [12 + 4]
    assert lengths("-i", str(source)) == [12 + len("Hiquiet")]
    assert lengths("-i", str(source), "--template", "think=True") == [12 + len("Hi")]
    assert lengths("-i", str(source), "--template", "think=false") == [12 + len("Hiquiet")]


def test_rows_are_not_continued_with_another_encoding(
    command: Command, tiny: str, tmp_path: Path
) -> None:
    out = str(tmp_path / "rows.jsonl")
    options = ("generate", "Once", "--model", tiny, *SHORT, "-o", out)
    assert command(*options).code == 0
    for more in (("--no-add-special-tokens",), ("--stop", "x")):
        assert_one_line(command(*options, "--resume", *more), 4, "rows.jsonl")
    assert command(*options, "--resume").code == 0


def test_a_constraint_is_kept_and_told_wrong_parts(
    command: Command, tiny: str, tmp_path: Path
) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "integer"}))
    options = ("generate", "", "--model", tiny, *SHORT, "-n", "3", "--json", "-q")

    def texts(*more: str) -> list[str]:
        result = command(*options, *more)
        assert result.code == 0, result
        return [json.loads(line)["text"] for line in result.out.splitlines()]

    assert all(re.fullmatch("0|[1-9][0-9]*", t) for t in texts("--json-schema", str(schema)))
    words = texts(
        "--regex", "[ab]{11,12}", "--banned", "aa", "--banned", "bbb", "--required", "abbab"
    )
    assert all(re.fullmatch("[ab]{11,12}", text) and "abbab" in text for text in words)
    assert not any("aa" in text or "bbb" in text for text in words)

    grammar = tmp_path / "pairs.lark"
    grammar.write_text('start: ("a" start "b" | "c" start "d")*')
    found = texts("--grammar", str(grammar), "--grammar-depth", "2")
    assert all(not re.sub("(ab|cd)*", "", re.sub("ab|cd", "", text)) for text in found)

    assert_one_line(command(*options, "--grammar-depth", "2"), 2, "goes with --grammar FILE")
    assert_one_line(command(*options, "--banned", ""), 2, "banned: an empty word")
