"""Published ways to draw tokens, written anew from their formulas, as what the kernels are held to.

Each takes logits [R, V] and a temperature > 0 and returns the tokens and what its loop ranks
positions by.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

HeadPeer = Callable[[Tensor, Tensor], Tensor]
Peer = Callable[[Tensor, float], tuple[Tensor, Tensor]]


def llada(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """LLaDA: argmax of exp(l) / (-ln u)^T in float64; p = softmax(l)[token].

    Nie et al. 2025, arXiv:2502.09992.
    """
    wide = logits.double()
    noise = (-torch.rand_like(wide).log()) ** temperature
    token = (wide.exp() / noise).argmax(-1)
    return token, logits.softmax(-1).gather(-1, token[:, None])[:, 0]


def fast_dllm(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Fast-dLLM: LLaDA's draw, the probability in float64.  Wu et al. 2025, arXiv:2505.22618."""
    wide = logits.double()
    token = (wide.exp() / (-torch.rand_like(wide).log()) ** temperature).argmax(-1)
    return token, wide.softmax(-1).gather(-1, token[:, None])[:, 0]


def dream(logits: Tensor, temperature: float, top_p: float = 0.95) -> tuple[Tensor, Tensor]:
    """Dream: nucleus by a sort, a categorical draw, entropy.  Ye et al. 2025, arXiv:2508.15487."""
    scaled = logits / temperature
    ordered, ids = scaled.sort(descending=True)
    late = ordered.softmax(-1).cumsum(-1) > top_p
    late = torch.cat([torch.zeros_like(late[:, :1]), late[:, :-1]], -1)
    dropped = torch.zeros_like(late).scatter_(-1, ids, late)
    p = scaled.masked_fill(dropped, torch.finfo(scaled.dtype).min).softmax(-1)
    token = torch.distributions.Categorical(probs=p).sample()
    return token, (p * (p + 1e-10).log()).sum(-1)


def mdlm(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """MDLM: argmax of p / (c - ln(u + c)) in float32.  Sahoo et al. 2024, arXiv:2406.07524."""
    p = (logits.float() / temperature).log_softmax(-1).exp()
    token = (p / (1e-10 - (torch.rand_like(p) + 1e-10).log())).argmax(-1)
    return token, p.gather(-1, token[:, None])[:, 0]


def multinomial(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The ordinary way: softmax, then torch.multinomial."""
    p = (logits.float() / temperature).softmax(-1)
    token = torch.multinomial(p, 1)
    return token[:, 0], p.gather(-1, token)[:, 0]


def peers(*, compiled: bool) -> dict[str, Peer]:
    """Those that can run here; a library counts if it can be imported."""
    found: dict[str, Peer] = {
        "LLaDA": llada,
        "Fast-dLLM": fast_dllm,
        "Dream, top-p 0.95": dream,
        "MDLM": mdlm,
        "softmax + multinomial": multinomial,
    }
    if compiled:
        found["torch.compile of LLaDA"] = torch.compile(llada)
    if find_spec("flashinfer") is not None:
        library = import_module("flashinfer.sampling")

        def flashinfer(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
            scaled = logits.float() / temperature
            token = library.sampling_from_logits(scaled).long()
            return token, scaled.softmax(-1).gather(-1, token[:, None])[:, 0]

        found["FlashInfer"] = flashinfer
    return found


def head_peers() -> dict[str, HeadPeer]:
    """Published fused heads, from hidden states and the weight to tokens alone; no statistics.

    FlashSampling (Ruiz et al. 2026, arXiv:2603.15854) counts if its package can be imported.
    """
    found: dict[str, HeadPeer] = {}
    if find_spec("fused_mm_sampling") is not None:
        library = import_module("fused_mm_sampling.core")

        def flash_sampling(hidden: Tensor, weight: Tensor) -> Tensor:
            return library.fused_mm_sample_triton(
                weights=weight, hidden_states=hidden, num_samples=1,
                temperature=torch.ones((), device=hidden.device), seed=0,
            )  # fmt: skip

        found["FlashSampling, token only"] = flash_sampling
    return found
