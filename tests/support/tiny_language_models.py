"""Language models of a few thousand weights, made from a configuration, and data for them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY = 32


def tiny_gpt2(*, tied: bool = True, dropout: float = 0.1) -> Any:
    """Return a GPT-2 of two layers; the same one at each call."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=64, n_embd=16, n_layer=2, n_head=2,
            bos_token_id=0, eos_token_id=0, pad_token_id=0, tie_word_embeddings=tied,
            resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
        )
    )  # fmt: skip


def breakable_gpt2(**options: Any) -> tuple[Any, "Breakable"]:
    """Return a GPT-2 with a layer that can be broken, and this layer."""
    model, layer = tiny_gpt2(**options), Breakable()
    model.transformer.h[1].mlp.act = nn.Sequential(model.transformer.h[1].mlp.act, layer)
    return model, layer


def token_rows(count: int = 16, length: int = 8) -> list[dict[str, Tensor]]:
    """Return rows of a language model's training data."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(1, VOCABULARY, (count, length), generator=generator)
    return [{"input_ids": row, "labels": row.clone()} for row in rows]


def tiny_tokenizer() -> Any:
    """Return a tokenizer whose words are `w2` to `w31`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", *(f"w{number}" for number in range(2, VOCABULARY))]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


class Breakable(nn.Module):
    """The identity, until `fault` is set.

    Attributes:
        fault: what it does instead.
        calls: number of its calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fault: Callable[[Tensor], Tensor] | None = None
        self.calls = 0

    def forward(self, values: Tensor) -> Tensor:
        self.calls += 1
        return values if self.fault is None else self.fault(values)


def overflow(values: Tensor) -> Tensor:
    """Return numbers too large for float32."""
    return torch.exp(values * 0 + 200.0)


class _Poison(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return gradient / torch.zeros_like(gradient)


def poison(values: Tensor) -> Tensor:
    """Return the values; their derivative is infinite."""
    return _Poison.apply(values)
