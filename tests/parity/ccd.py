"""CCD's `_sample_inference_lookahead`; the toy is shifted by one."""

from __future__ import annotations

from typing import Any

from dlm_sampling.samplers import CCD
from dlm_sampling.samplers.parts.orders import OrderName
from dlm_sampling.testing import FixtureToy
from dlm_sampling.types import TokenLaw
from tests.parity.common import Replay, replay, toy_of

ORDERS: dict[str, OrderName] = {
    "entropy": "entropy",
    "maskgit_plus": "confidence",
    "topk_margin": "margin",
}


def run(case: dict[str, Any], toys: dict[str, FixtureToy]) -> Replay:
    """Replay one case."""
    args = case["args"]
    sampler = CCD(bool(args["seek_mode"]), args["expand_ratio"], ORDERS[args["alg"]])
    law = TokenLaw(temperature=0.0, top_p=args.get("top_p"), top_k=args.get("top_k"))
    options = {"steps": args["steps"], "law": law, "every_step": False}
    return replay(case, toy_of(case, toys, shifted=True), sampler, **options)
