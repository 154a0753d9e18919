"""Define `Denoiser`, the interface of all networks: a noised canvas in, logits out.

Families differ in mask id, alignment, padding, time input and output width.  A denoiser states
these as attributes and hides the rest, so that the loop and the samplers never ask which family
they run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from dlm_sampling.denoisers.checkpoints.hub import Savable
from dlm_sampling.denoisers.checkpoints.placement import parse_dtype
from dlm_sampling.denoisers.checkpoints.tokenizers import TokenizerSource, is_tokenizer
from dlm_sampling.denoisers.wrappers import outermost, plain_name, runs_whole
from dlm_sampling.processes import Absorbing, Uniform
from dlm_sampling.schedules import Schedule
from dlm_sampling.types import DenoiserOutput, Pass, PredictionKind, Process

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase


class Denoiser(Savable, ABC):
    """Predict the clean tokens of a noised canvas: `denoiser(input_ids, attention_mask, t)`.

    Subclasses implement `forward`, which takes a `Pass`; users call the object as a function, which
    checks its arguments.  Gradients follow the caller's grad mode.

    Args:
        vocab_size: number of logit columns V.
        mask_token_id: the absorbing token, or None for uniform noise.
        eos_token_id: end-of-text token, or None.
        pad_token_id: padding token, or None.
        max_length: longest canvas the model was built for, or None.
        honours_padding: whether a padded row gives the same logits as the row alone, up to the
            rounding of the type: in float32 tokens agree but for ties of about 1e-6; in 16 bits the
            rounding is 1e-2 and moves near-ties.  Where False the loop runs rows of different
            padding separately, at their own width; `denoiser.honours_padding = False` buys that
            also for a 16-bit network, at the price of one pass per width.
        time_conditioned: whether `t` changes the logits.
        kind: meaning of the logits' law, such as "posterior"; see `types.PredictionKind`.
        process: the noise it was trained on; default: masks if there is a mask id, else uniform.
        schedule: alpha(t) of the times `t` that a time-conditioned model takes, or None where the
            sampler's own time goes in as it is.
        suppressed: further ids that are never drawn, such as columns beyond the vocabulary.
        tokenizer: the tokenizer, a function that loads it when first asked for, or None.
        module: the network, or None for a plain function.  It may be replaced by a wrapper of
            itself, such as `denoiser.module = DistributedDataParallel(denoiser.module)`.
        device: device of the inputs; default: that of the first parameter of `module`, else CPU.
    """

    family: str = "custom"
    block_length: int | None = None
    """Columns per block of a block-causal network, counted from a row's first token; else None."""
    canvas_length: int | None = None
    """Columns at the end of the input that are predicted, all before them being prompt; None: all.

    The loop then writes blocks of that many columns and passes nothing to their right.
    """
    further_eos_ids: tuple[int, ...] = ()
    """Ids beside `eos_token_id` that end a text, such as the end of a turn."""
    generation_defaults: Mapping[str, Any] = MappingProxyType({})
    """Options of `generate` that the checkpoint sets, such as its sampler."""
    checkpoint_config: Mapping[str, Any] = MappingProxyType({})
    """The checkpoint's config.json as it was read; empty for a network that came from none."""
    unread_keys: tuple[str, ...] = ()
    """Keys of the checkpoint's config.json that nothing reads: of training, or null."""
    quantized: str | None = None
    """How the linear layers are quantised, such as "int8" or "torchao"; None: they are not."""
    step_conditioned: bool = False
    """Whether `forward` reads `Pass.dt`, the length of the step, as few-step flow models do."""
    carries: bool = False
    """Whether the network has a latent state that goes from one forward pass to the next."""
    carry_has_columns: bool = False
    """Whether dimension 1 of each tensor of the state runs over the columns of the canvas."""
    lazy_head: bool = False
    """Whether passes return hidden states and the output head, so that few logits exist at once."""
    cacheable: bool = False
    """Whether `forward` takes keys and values of earlier passes (`Pass.cache`)."""

    partial_layers: bool = False
    """Whether its layers store what they add, for passes that compute some of them in part."""
    shift: int = 0
    """1 where the state that predicts a token is that of the real token before it, else 0."""
    rows_alike: bool = False
    """Whether equal rows of a pass have equal logits whatever their numbers, `Pass.rows`.

    In the first step of a run they then share one row's pass, as several texts of a prompt do; NFE
    counts it for each of them, work once.
    """
    padding_proven: bool = True
    """Whether `honours_padding` needs no check before it is relied upon."""
    recordable: bool = True
    """Whether a pass has fixed shapes and no synchronisation, so that a CUDA graph can record it.

    True is also assumed of wrapped networks; one that cannot be recorded fails when it is tried.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        mask_token_id: int | None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        max_length: int | None = None,
        honours_padding: bool = True,
        time_conditioned: bool = False,
        kind: PredictionKind = "posterior",
        process: Process | None = None,
        schedule: Schedule | None = None,
        suppressed: Iterable[int] = (),
        tokenizer: PreTrainedTokenizerBase | TokenizerSource | None = None,
        module: nn.Module | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Set the facts; see the class."""
        check_mask_id(mask_token_id, vocab_size)
        self.vocab_size = vocab_size
        self.mask_token_id = mask_token_id
        self.eos_token_id = eos_token_id
        self.pad_token_id = pad_token_id
        self.max_length = max_length
        self.honours_padding = honours_padding
        self.time_conditioned = time_conditioned
        self.kind: PredictionKind = kind
        self.process: Process = process if process is not None else _process(mask_token_id)
        self.schedule = schedule
        self.suppressed = tuple(suppressed)
        self.module = module
        self._kind = plain_name(module)
        self._device = torch.device(device) if device is not None else None
        self._tokenizer = tokenizer

    @property
    def device(self) -> torch.device:
        """Return where inputs go: the device that was named, else that of the network now."""
        if self._device is not None or self.module is None:
            return self._device or torch.device("cpu")
        weight = next(self.module.parameters(), None)
        return device_of(self.module) if weight is None else weight.device

    def to(
        self,
        device: torch.device | torch.dtype | str | int | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> Self:
        """Move the network, and cast its floating-point weights; return the denoiser itself.

        Buffers keep their type, since rotary frequencies must not be rounded.

        Args:
            device: such as "cuda:0"; None: not moved; a type is taken as `dtype`.
            dtype: of the weights, such as torch.bfloat16 or "bfloat16"; None: not changed.

        Raises:
            ValueError: there is no such device, or it is no floating-point type.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        kind = parse_dtype(dtype)
        try:
            device = None if device is None else torch.device(device)
        except RuntimeError as error:
            raise ValueError(
                f"device={device!r}: must be a device such as 'cuda:0'; for a type write "
                "dtype=torch.bfloat16."
            ) from error
        if self.module is not None:
            for weight in self.module.parameters():
                if kind is not None and weight.is_floating_point():
                    weight.data = weight.data.to(kind)
            self.module.to(device=device)
        if device is not None and (self._device is not None or self.module is None):
            self._device = device
        return self

    def entry(self) -> tuple[Any, bool]:
        """Return the module to call, and whether the output head must run inside that call.

        The module is the outermost one, which may be a wrapper; see `outermost` and `runs_whole`.
        """
        module = self.module
        assert module is not None
        if type(module).__qualname__ == self._kind:
            return module, False
        return outermost(module), runs_whole(module)

    def call_module(self, *args: Any, **given: Any) -> Any:
        """Call the network by its outermost module."""
        return self.entry()[0](*args, **given)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Return the tokenizer, loading it when first asked for; None if there is none."""
        source = self._tokenizer
        if source is not None and not is_tokenizer(source):
            self._tokenizer = source = source()
        return source

    @tokenizer.setter
    def tokenizer(self, value: PreTrainedTokenizerBase | None) -> None:
        self._tokenizer = value

    @property
    def dtype(self) -> torch.dtype | None:
        """Return the type of the first floating-point parameter, or None without a module."""
        if self.module is None:
            return None
        return next((p.dtype for p in self.module.parameters() if p.is_floating_point()), None)

    @property
    def num_parameters(self) -> int:
        """Count the weights, tied ones once; 0 without a module."""
        return 0 if self.module is None else sum(p.numel() for p in self.module.parameters())

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        t: Tensor | None = None,
        carry: Any = None,
        dt: Tensor | None = None,
    ) -> DenoiserOutput:
        """Check the arguments and run one forward pass over the canvas (NFE 1).

        Args:
            input_ids: int64 [B, L].
            attention_mask: [B, L], 1 or True at real tokens; None means no padding, and is faster.
            t: noise level of each row, float64 [B], 1 is pure noise; needed by time-conditioned
                models.
            carry: the `carry` of the previous output, for models with a latent state.
            dt: length of the step that follows, float64 [B]; needed by step-conditioned models and
                ignored by others.

        Returns:
            Logits [B, L, V], or hidden states [B, L, d] with the head that maps them to logits, of
            all columns that the network predicts.  Entry v at position i scores token v at
            position i, for every family.

        Raises:
            ValueError: shapes do not fit, `t` is missing for a time-conditioned model, or `dt` for
                a step-conditioned one.
        """
        check_shapes(input_ids, attention_mask)
        if t is None and self.time_conditioned:
            raise ValueError(
                "t is missing: this model is conditioned on the noise level; "
                "pass one value in [0, 1] per row."
            )
        if t is not None and t.shape != input_ids.shape[:1]:
            rows = input_ids.shape[0]
            raise ValueError(f"t has shape {tuple(t.shape)}: must be [{rows}], one level per row.")
        if self.step_conditioned and (dt is None or dt.shape != input_ids.shape[:1]):
            raise no_step_length(dt, len(input_ids))
        seen = None if attention_mask is None else attention_mask.bool()
        return self.forward(Pass(input_ids, t, seen, dt, carry).to(self.device))

    @abstractmethod
    def forward(self, inputs: Pass) -> DenoiserOutput:
        """Run the family's forward pass; the inputs have been checked and lie on `device`.

        Raises:
            ValueError: `inputs.cache` is not None and the network takes none, or another kind.
        """

    def initial_carry(self, input_ids: Tensor) -> Any:
        """Make the state of rows before their first pass: a tensor, or a tuple of them, [B, ...].

        Raises:
            TypeError: the network has no state.
        """
        raise TypeError(f"{type(self).__name__} carries no state from one pass to the next.")

    def temper(self, carry: Any, temperature: Tensor) -> Any:
        """Change the state after a pass whose logits are divided by temperature, float64 [B] > 0.

        Only a state that depends on logits changes.
        """
        return carry

    def logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        t: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> Tensor:
        """Return all logits [B, L, V] of one forward pass, where memory is no concern (NFE 1).

        Columns that the network does not predict, such as those of DiffusionGemma's prompt, are 0.
        """
        out = self(input_ids, attention_mask, t, dt=dt)
        values = out.values
        if out.head is not None:
            values = out.head(values.flatten(0, 1)).reshape(*values.shape[:2], self.vocab_size)
        if out.columns is None:
            return values
        index = out.columns.unsqueeze(-1).expand_as(values)
        return values.new_zeros(*input_ids.shape, self.vocab_size).scatter(1, index, values)


def _process(mask_token_id: int | None) -> Process:
    """Choose the noise: masks if there is a mask id, else uniform noise."""
    return Uniform() if mask_token_id is None else Absorbing(mask_token_id)


def check_mask_id(mask_token_id: int | None, vocab_size: int) -> None:
    """Refuse a mask id that has no row in the embedding."""
    if vocab_size < 1:
        raise ValueError(
            f"vocab_size={vocab_size}: must be the number of logit columns, at least 1."
        )
    if mask_token_id is not None and not 0 <= mask_token_id < vocab_size:
        raise ValueError(
            f"mask_token_id={mask_token_id}: must be in [0, {vocab_size}), the range of the "
            "vocabulary."
        )


def check_shapes(input_ids: Tensor, attention_mask: Tensor | None) -> None:
    """Refuse a canvas that is no table of rows, or a mask of another shape."""
    if input_ids.ndim != 2:
        raise ValueError(
            f"input_ids has shape {tuple(input_ids.shape)}: must be [rows, positions]."
        )
    if attention_mask is not None and attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}: must be "
            f"{tuple(input_ids.shape)}, as input_ids."
        )


def no_step_length(dt: Tensor | None, rows: int) -> ValueError:
    """Make the error of a step-conditioned model that is not told how long the step is."""
    return ValueError(
        f"dt is {'missing' if dt is None else f'of shape {tuple(dt.shape)}'}: this model is "
        f"conditioned on the length of the step, [{rows}], one per row; use the sampler fs-dfm."
    )


def refuse_quantised(denoiser: Denoiser) -> None:
    """Refuse to save a quantised network.

    Raises:
        TypeError: it was; the weights that it was loaded from are the ones to keep.
    """
    if denoiser.quantized is not None:
        raise TypeError(
            f"the network is quantised ({denoiser.quantized}), and is not saved like this: save "
            "the one that it was made from, and give quantize= at loading."
        )


def device_of(module: nn.Module | None) -> torch.device:
    """Return the device of the first parameter (or buffer) of a module; CPU if there is none."""
    if module is None:
        return torch.device("cpu")
    tensor = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device
