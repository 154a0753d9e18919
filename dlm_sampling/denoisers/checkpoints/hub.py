"""Push a checkpoint to the Hugging Face hub: what is saved in a folder becomes one commit.

A repository that is pushed to again keeps its card, and loses the weights that the new commit does
not have: files of a division into other shards would be loaded in place of the new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from dlm_sampling.denoisers.checkpoints.weights import WEIGHT_FILES

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

CARD_NAME = "README.md"
CARD = """---
library_name: dlm_sampling
tags:
{tags}
---

A checkpoint of the diffusion language model family `{family}`.

```python
from dlm_sampling import AutoDenoiser, generate

denoiser = AutoDenoiser.from_pretrained("{repo_id}")
print(generate(denoiser, "Once upon a time").texts)
```
"""


class Savable:
    """Save a denoiser to a folder or the hub; families with a checkpoint format say how."""

    family: str

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        max_shard_size: int | str = "5GB",
    ) -> None:
        """Write config, weights (safetensors) and tokenizer in the authors' format.

        Args:
            folder: created if needed.
            dtype: type of the written weights, such as "bfloat16"; default: as they are.
            max_shard_size: size of a file in bytes, or such as "2GB"; larger models are split.

        Raises:
            TypeError: the denoiser has no checkpoint format (a wrapped function).
        """
        raise TypeError(
            f"{type(self).__name__} has no checkpoint format: save the wrapped model with its "
            "own method."
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "5GB",
        tags: Sequence[str] = (),
        dtype: torch.dtype | str | None = None,
    ) -> CommitInfo:
        """Save to a repository on the hub, in one commit; arguments as transformers' models take.

        Args:
            repo_id: name, or organisation/name; created if needed.
            commit_message: default "Upload <class>".
            commit_description: body of the commit.
            private: whether a new repository is private; None: what the organisation has set.
            token: of the hub; default: the one that `hf auth login` stored.
            revision: branch to commit to, created if needed; default: main.
            create_pr: open a pull request instead of committing to the branch.
            max_shard_size: size of a file in bytes, or such as "2GB"; larger models are split.
            tags: further tags of a new card; a card that is there stays as it is.
            dtype: type of the written weights, as in `save_pretrained`.

        Returns:
            The commit, with its `commit_url` and, with `create_pr`, its `pr_url`.

        Raises:
            TypeError: the denoiser has no checkpoint format, or is quantised.
            huggingface_hub.errors.HfHubHTTPError: the hub refuses, for example for want of a token.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, dtype=dtype, max_shard_size=max_shard_size)

            def card(full_name: str) -> str:
                listed = "\n".join(f"- {tag}" for tag in ["diffusion-language-model", *tags])
                return CARD.format(tags=listed, family=self.family, repo_id=full_name)

            return commit_folder(
                Path(folder),
                card,
                repo_id,
                message=commit_message or f"Upload {type(self).__name__}",
                description=commit_description,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
            )


def commit_folder(
    folder: Path,
    card: Callable[[str], str],
    repo_id: str,
    *,
    message: str,
    description: str | None,
    private: bool | None,
    token: bool | str | None,
    revision: str | None,
    create_pr: bool,
) -> CommitInfo:
    """Commit all files of a folder to a model repository, with a card if it has none.

    Args:
        folder: the folder to commit, as it is.
        card: makes the card from the full name of the repository.
        repo_id: created if needed.
        message: of the commit.
        description: of the commit.
        private: see `Savable.push_to_hub`, as for the following.
        token: of the hub.
        revision: branch.
        create_pr: whether to open a pull request.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/pr"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    present = set(api.list_repo_files(repo_id, revision=revision))
    if CARD_NAME not in present:
        (folder / CARD_NAME).write_text(card(repo_id), encoding="utf-8")
    new = {str(p.relative_to(folder).as_posix()): p for p in folder.rglob("*") if p.is_file()}
    stale = sorted(name for name in present - set(new) if WEIGHT_FILES.fullmatch(name))
    added = [CommitOperationAdd(name, path) for name, path in sorted(new.items())]
    return api.create_commit(
        repo_id,
        [*added, *(CommitOperationDelete(name) for name in stale)],
        commit_message=message,
        commit_description=description,
        revision=revision,
        create_pr=create_pr,
    )
