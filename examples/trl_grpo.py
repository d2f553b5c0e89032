"""TRL's GRPO with a reward function that is infinite now and then: Esper lights it by name.

    python examples/trl_grpo.py
    python examples/trl_grpo.py --mended
    sanctum                             # in another terminal, or afterwards

`sentence_length` divides the words of a completion by its full stops, and some completions have
none. GRPO turns an infinite reward into an advantage of 0: the loss and the gradient norm become 0,
nothing is learned from that group, and no error is raised. Only the line marked with "Esper" is
not part of the training.
"""

import argparse

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from esper.integrations.transformers import EsperCallback

WORDS = ["<pad>", "<eos>", ".", "the", "a", "cat", "dog", "sees", "likes", "sleeps", "eats"]


def variety(completions, **_):
    """Reward different words."""
    return [float(len(set(completion.split()))) for completion in completions]


def sentence_length(completions, **_):
    """Reward long sentences. Wrong: a completion without a full stop has 0 of them."""
    words = np.array([len(completion.split()) for completion in completions])
    stops = np.array([completion.count(".") for completion in completions])
    with np.errstate(divide="ignore", invalid="ignore"):
        return (words / stops).tolist()


def mended_sentence_length(completions, **_):
    """Reward long sentences; the last one needs no full stop."""
    return [len(completion.split()) / max(1, completion.count(".")) for completion in completions]


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows a few words, so that nothing is downloaded."""
    words = models.WordLevel({word: number for number, word in enumerate(WORDS)}, "<pad>")
    made = Tokenizer(words)
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--mended", action="store_true")
    options = parser.parse_args()

    torch.manual_seed(1)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(WORDS), n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=1,
            eos_token_id=1,
        )
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=model,
        args=GRPOConfig(
            "grpo", max_steps=options.steps, per_device_train_batch_size=4, num_generations=4,
            max_completion_length=8, learning_rate=1e-3, logging_steps=1, save_strategy="no",
            report_to=[], use_cpu=True, bf16=False,
        ),
        reward_funcs=[variety, mended_sentence_length if options.mended else sentence_length],
        train_dataset=Dataset.from_dict({"prompt": ["the cat", "a dog"] * 8}),
        processing_class=tokenizer(),
        callbacks=[EsperCallback()],  # Esper
    )  # fmt: skip
    trainer.train()


if __name__ == "__main__":
    main()
