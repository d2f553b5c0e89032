"""transformers' Trainer with Esper's lights: a small GPT-2 learns to count.

    python examples/transformers_trainer.py
    sanctum                             # in another terminal, or afterwards

Only the line marked with "Esper" is not part of the training. `--break-at STEP` makes one weight
infinite, to see what Esper says. `Trainer` would log a loss of 0 then: it hides what is not finite.
"""

import argparse

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from esper.integrations.transformers import EsperCallback

DIGITS = 10


def counting(length: int = 16) -> list[dict[str, torch.Tensor]]:
    """Return rows such as 3 4 5 6 …, modulo 10."""
    rows = [(torch.arange(length) + start) % DIGITS for start in range(DIGITS)]
    return [{"input_ids": row, "labels": row} for row in rows]


class BreakWeight(TrainerCallback):
    """Makes a weight infinite before one step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step + 1 == self.step:
            model.transformer.h[1].mlp.c_fc.weight.data[0, 0] = torch.inf


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--break-at", type=int, default=0, metavar="STEP")
    options = parser.parse_args()

    torch.manual_seed(1)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=DIGITS, n_positions=32, n_embd=32, n_layer=2, n_head=2, bos_token_id=0,
            eos_token_id=0,
        )
    )  # fmt: skip
    arguments = TrainingArguments(
        "counting", max_steps=options.steps, per_device_train_batch_size=5, learning_rate=3e-3,
        logging_steps=5, save_strategy="no", report_to=[], use_cpu=True,
    )  # fmt: skip
    callbacks = [
        EsperCallback(),  # Esper
        BreakWeight(options.break_at),
    ]
    Trainer(model, arguments, train_dataset=counting(), callbacks=callbacks).train()


if __name__ == "__main__":
    main()
