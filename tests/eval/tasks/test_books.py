import json

import pytest
from dlm_eval.judges.ngram import main
from dlm_eval.tasks.books import read_split
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SOURCE = 'TRAIN_BOOKS = ("a", "b")\nHELD_OUT_BOOKS = ("c",)\nraise RuntimeError("must not run")\n'


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "a_first.txt").write_text("the cat saw the dog " * 30)
    (tmp_path / "b_second.txt").write_text("the dog saw the cat " * 30)
    (tmp_path / "c_third.txt").write_text("the cat saw the cat and the dog ")
    (tmp_path / "split.py").write_text(SOURCE)
    return tmp_path


def test_the_split_is_read_without_running_the_file(corpus):
    split = read_split(corpus / "split.py", corpus)
    assert list(split.train) == ["a", "b"]
    assert split.held_out["c"].endswith("dog ")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('TRAIN_BOOKS = ("a",)\n', "HELD_OUT_BOOKS"),
        ('TRAIN_BOOKS = ("a",)\nHELD_OUT_BOOKS = "c"\n', "HELD_OUT_BOOKS"),
        ('TRAIN_BOOKS = ("a", "c")\nHELD_OUT_BOOKS = ("c",)\n', "listed twice"),
    ],
)
def test_a_split_that_is_no_split_is_refused(corpus, source, message):
    (corpus / "split.py").write_text(source)
    with pytest.raises(ValueError, match=message):
        read_split(corpus / "split.py", corpus)


def test_a_missing_book_is_named(corpus):
    (corpus / "b_second.txt").unlink()
    with pytest.raises(FileNotFoundError, match="'b'"):
        read_split(corpus / "split.py", corpus)


def test_the_command_writes_bits_per_character_of_every_held_out_book(corpus):
    words = ["the", "cat", "saw", "dog", "and", "[UNK]", "[END]"]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="[END]").save_pretrained(
        corpus / "tokenizer"
    )
    out = corpus / "results" / "ngram.json"
    main(
        books=corpus,
        tokenizer=corpus / "tokenizer",
        split=corpus / "split.py",
        order=[1, 2],
        out=out,
    )
    report = json.loads(out.read_text())
    book = report["held_out"]["c"]
    assert report["train_tokens"] == 302  # 150 words and one end token per book
    assert book["tokens"] == 9
    assert 0 < book["2-gram"]["bits_per_char"] < book["1-gram"]["bits_per_char"]
