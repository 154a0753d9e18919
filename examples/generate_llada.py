"""Generate with an LLaDA, Dream or MDLM checkpoint; the same call serves all three.

python examples/generate_llada.py --model GSAI-ML/LLaDA-8B-Instruct --chat "Why is the sky blue?"
python examples/generate_llada.py --model Dream-org/Dream-v0-Base-7B --sampler dream-entropy "The
sky is"
python examples/generate_llada.py --model kuleshov-group/mdlm-owt --sampler remdm-cap --temperature
1 ""
"""

from typing import Annotated

import typer

from dlm_sampling import AutoDenoiser, generate


def main(
    prompt: str,
    *,
    model: Annotated[
        str, typer.Option(help="Hub name or checkpoint folder.")
    ] = "GSAI-ML/LLaDA-8B-Instruct",
    chat: Annotated[bool, typer.Option(help="Put the prompt into the chat template.")] = False,
    sampler: str = "llada",
    max_new_tokens: int = 128,
    steps: int = 128,
    block_length: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    device: Annotated[
        str | None, typer.Option(help="cuda, cpu, or auto (needs accelerate).")
    ] = None,
) -> None:
    """Print one completion and what it cost."""
    denoiser = AutoDenoiser.from_pretrained(model, device_map=device)
    out = generate(
        denoiser,
        [{"role": "user", "content": prompt}] if chat else prompt,
        sampler=sampler,
        max_new_tokens=max_new_tokens,
        steps=steps,
        block_length=block_length,
        temperature=temperature,
        seed=seed,
    )
    print(out.texts[0] if out.texts else out.token_ids[0])
    print(f"{int(out.nfe[0])} forward passes, {len(out.token_ids[0])} tokens, seed {out.seeds[0]}")


if __name__ == "__main__":
    typer.run(main)
