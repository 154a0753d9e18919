"""The input of a forward pass moves as a whole."""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_sampling.types import Pass

STAYS = {"carry", "cache"}  # the network's own


def test_every_tensor_moves_but_what_the_network_keeps() -> None:
    """A field that is added moves too, or is named here."""
    one = torch.zeros(2, 3)
    moved = Pass(**dict.fromkeys(Pass._fields, one)).to(torch.device("meta"))
    found = {name: value.device.type for name, value in moved._asdict().items()}
    assert found == {name: "cpu" if name in STAYS else "meta" for name in Pass._fields}
    assert isinstance(one, Tensor) and Pass(one).to(torch.device("meta")).t is None
