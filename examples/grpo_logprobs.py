"""The log-probabilities of a GRPO loop: a few updates of a small model towards a toy reward.

    python examples/grpo_logprobs.py --updates 12

Rollouts are sampled once per update; `replay` scores their tokens in the steps that wrote them,
first under the old policy, then under the new one with gradients, so that the first ratio is 1.
The drift from the starting point is the difference of two likelihood bounds with shared masks.
Loss: Shao et al. 2024, arXiv:2402.03300 (clipped ratios, advantages within the group).
"""

import copy
from typing import Annotated

import torch
import typer

from dlm_sampling import AutoDenoiser, Rollout, elbo, generate, replay


def main(
    prompt: Annotated[str, typer.Argument(help="Start of every text.")] = "Once upon a time",
    model: Annotated[str, typer.Option(help="Embedded model, hub name or folder.")] = "tiny-books",
    updates: int = 12,
    group: Annotated[int, typer.Option(help="Texts per update.")] = 8,
    length: Annotated[int, typer.Option(help="Tokens per text.")] = 24,
    shrink: Annotated[int, typer.Option(help="Steps that one pass scores.")] = 4,
    letter: Annotated[str, typer.Option(help="The reward is its share of the text.")] = "e",
    rate: float = 1e-3,
    seed: int = 0,
) -> None:
    """Print reward, first ratio and drift of every update."""
    policy = AutoDenoiser.from_pretrained(model)
    reference = copy.deepcopy(policy)
    if policy.module is None:
        raise SystemExit(f"{model} has no weights to train.")
    optimizer = torch.optim.AdamW(policy.module.parameters(), lr=rate)
    for update in range(updates):
        out = generate(
            policy, prompt, max_new_tokens=length, steps=length // 2, num_return_sequences=group,
            temperature=1.0, top_p=1.0, eos="keep", seed=seed + update, return_trajectory=True,
        )  # fmt: skip
        rollout = Rollout.from_output(out)
        reward = torch.tensor([t.count(letter) / max(len(t), 1) for t in out.texts or []])
        advantage = ((reward - reward.mean()) / (reward.std() + 1e-4)).unsqueeze(1)
        old = replay(policy, rollout, shrink=shrink, grad=False).logprob
        for inner in range(2):
            ratio = (replay(policy, rollout, shrink=shrink).logprob - old).exp()
            clipped = ratio.clamp(0.8, 1.2)
            gain = torch.minimum(ratio * advantage, clipped * advantage)
            optimizer.zero_grad()
            (-gain[rollout.editable].mean()).backward()
            optimizer.step()
            if inner == 0:
                first = ratio.detach()[rollout.editable]
        bound = elbo(policy, rollout.tokens, editable=rollout.editable, n=4, seed=seed, grad=False)
        start = elbo(
            reference, rollout.tokens, editable=rollout.editable, masks=bound.masks, grad=False
        )
        drift = (bound.value - start.value).mean() / length
        print(
            f"update {update}: reward {float(reward.mean()):.3f}, first ratio within "
            f"{float((first - 1).abs().max()):.0e} of 1, drift {float(drift):+.3f} nats per token"
        )


if __name__ == "__main__":
    typer.run(main)
