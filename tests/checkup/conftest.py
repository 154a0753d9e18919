"""The tiny checkpoints of `tests/denoisers`, for the tests of the doctor."""

from tests.denoisers.conftest import llada, make, mdlm, tokenizer

__all__ = ["llada", "make", "mdlm", "tokenizer"]
