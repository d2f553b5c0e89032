"""`esper.watch` in a plain loop of Accelerate, with and without gradient accumulation."""

import pytest
import torch
from tiny_language_models import breakable_gpt2, overflow, poison, token_rows
from torch.utils.data import DataLoader

import esper

pytest.importorskip("accelerate")
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.setenv("ESPER_RUN_DIR", str(tmp_path / "runs"))
    for state in (AcceleratorState, GradientState):  # shared by the whole process
        state._reset_state()
    yield
    for state in (AcceleratorState, GradientState):
        state._reset_state()


def train(fault, *, accumulate, is_watched, **settings):
    model, layer = breakable_gpt2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate, **settings)
    loader = DataLoader(token_rows(), batch_size=2)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    watch = esper.watch(model, optimizer, name="loop") if is_watched else None
    torch.manual_seed(0)
    losses = []
    for number, batch in enumerate(loader):
        layer.fault = fault if number in (4, 5) else None
        with accelerator.accumulate(model):
            loss = model(**batch).loss
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        losses.append(loss.detach())
    if watch is not None:
        watch.close()
    state = accelerator.step, accelerator.sync_gradients, layer.calls, scheduler.get_last_lr()
    weights = accelerator.unwrap_model(model).state_dict()
    return watch, (weights, optimizer.state_dict()["state"], torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("fault", "phase", "settings"),
    [
        (None, "", {}),
        (overflow, "forward", {}),
        (poison, "backward", {}),
        (overflow, "forward", {"mixed_precision": "bf16"}),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_plain_loop_is_explained_and_does_not_notice(fault, phase, settings, accumulate):
    watch, watched = train(fault, accumulate=accumulate, is_watched=True, **settings)
    _, plain = train(fault, accumulate=accumulate, is_watched=False, **settings)

    assert (watch.failures, watch.last_failure) == (0, "")
    assert [head.name for head in watch.heads] == ["lm_head"]
    if fault is None:
        assert watch.troubles == []
    else:
        (trouble,) = watch.troubles
        operation = trouble.explanation.origin.operation
        assert operation.phase == phase
        assert operation.place.file.endswith("tiny_language_models.py")
    for mine, other in zip(plain, watched, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)
