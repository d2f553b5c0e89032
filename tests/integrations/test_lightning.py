"""What the callback finds in Lightning's Trainer, and that the Trainer does not notice it."""

import warnings

import pytest
import torch
from tiny_language_models import Breakable, overflow, poison
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from esper.karn.store.run_store import RunReader

pytest.importorskip("lightning")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from lightning.pytorch import Callback, LightningModule, Trainer
    from torchmetrics import MeanSquaredError

from esper.integrations.lightning import EsperCallback

pytestmark = pytest.mark.filterwarnings("ignore")


class Regression(LightningModule):
    """One network, with a metric, dropout and a layer that can be broken."""

    def __init__(self, width=8):
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(nn.Linear(4, width), nn.Dropout(0.1), nn.Tanh())
        self.layer = Breakable()
        self.out = nn.Linear(width, 3)
        self.error = MeanSquaredError()
        self.calls = 0

    def training_step(self, batch, batch_idx):
        self.calls += 1
        inputs, targets = batch
        outputs = self.out(self.layer(self.body(inputs)))
        loss = (outputs - targets).square().mean()
        self.error(outputs.detach(), targets)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("error", self.error)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Adversarial(LightningModule):
    """Two networks with an optimizer each, stepped by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = nn.Linear(4, 4), nn.Linear(4, 1)
        self.layer = Breakable()

    def training_step(self, batch, batch_idx):
        of_generator, of_critic = self.optimizers()
        made = self.generator(batch[0])
        self.toggle_optimizer(of_generator)
        loss = -self.critic(made).mean()
        of_generator.zero_grad()
        self.manual_backward(loss)
        of_generator.step()
        self.untoggle_optimizer(of_generator)
        self.toggle_optimizer(of_critic)
        loss = self.layer(self.critic(made.detach())).mean() - self.critic(batch[0]).mean()
        of_critic.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(of_critic, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
        of_critic.step()
        self.untoggle_optimizer(of_critic)
        self.log("critic_loss", loss)

    def configure_optimizers(self):
        return (
            torch.optim.Adam(self.generator.parameters(), lr=1e-3),
            torch.optim.Adam(self.critic.parameters(), lr=1e-3),
        )


class At(Callback):
    """Calls a function before one batch, and another one after the next."""

    def __init__(self, batch, begin, end):
        self.batch, self.begin, self.end = batch, begin, end

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.batch:
            self.begin()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == self.batch + 1:
            self.end()


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("ESPER_RUN_DIR", str(tmp_path / "runs"))
    return tmp_path / "runs"


def breaks(module, fault, batch=4):
    return At(
        batch,
        lambda: setattr(module.layer, "fault", fault),
        lambda: setattr(module.layer, "fault", None),
    )


def fit(module, *callbacks, data=None, **settings):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(48, 4, generator=generator)
    data = TensorDataset(inputs if data is None else data, torch.tanh(inputs[:, :3]))
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        callbacks=list(callbacks), **settings,
    )  # fmt: skip
    torch.manual_seed(0)
    trainer.fit(module, DataLoader(data, batch_size=8))
    return trainer


def made(kind):
    torch.manual_seed(0)
    return kind()


def found(watch):
    return [
        (one.owner, one.quantity, one.kind)
        for trouble in watch.troubles
        for one in trouble.explanation.found
    ]


def only(watch):
    (trouble,) = watch.troubles
    assert (watch.failures, watch.last_failure) == (0, "")
    return trouble


@pytest.mark.parametrize(("kind", "figure"), [(Regression, "loss"), (Adversarial, "critic_loss")])
def test_a_clean_training_is_clean_and_recorded(runs, kind, figure):
    callback = EsperCallback()
    fit(made(kind), callback)

    assert (callback.watch.troubles, callback.watch.last_failure) == ([], "")
    (directory,) = runs.iterdir()
    events = [stored.payload for stored in RunReader(directory).read(0, 1000)]
    updates = [one for one in events if hasattr(one, "still_updates")]
    assert events[0].library.startswith("lightning ")
    assert events[0].task == kind.__name__
    assert events[0].config["max_epochs"] == 1
    assert [one.update for one in updates] == [1, 2, 3, 4, 5, 6]
    assert all(figure in one.logged for one in updates)
    assert all(one.gradient_norm > 0 for one in updates)
    assert events[-1].status == "finished"


def test_an_input_is_named_by_its_place_in_the_batch():
    data = torch.randn(48, 4)
    data[17, 2] = torch.nan
    callback = EsperCallback()
    fit(made(Regression), callback, data=data)

    trouble = only(callback.watch)
    assert found(callback.watch) == [("shared", "batch[0]", "nan")]
    assert trouble.update == 3


@pytest.mark.parametrize(("fault", "phase"), [(overflow, "forward"), (poison, "backward")])
@pytest.mark.parametrize("kind", [Regression, Adversarial])
def test_a_broken_layer_is_named_by_line(kind, fault, phase):
    module, callback = made(kind), EsperCallback()
    fit(module, callback, breaks(module, fault))

    trouble = only(callback.watch)
    assert trouble.update == 5
    operation = trouble.explanation.origin.operation
    assert operation.phase == phase
    assert operation.place.file.endswith("tiny_language_models.py")


@pytest.mark.parametrize(
    ("kind", "fault", "settings"),
    [
        (Regression, None, {}),
        (Regression, overflow, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}),
        (Regression, poison, {"precision": "bf16-mixed"}),
        (Adversarial, None, {}),
        (Adversarial, overflow, {}),
    ],
)
def test_a_watched_training_equals_an_unwatched_one(kind, fault, settings):
    results = []
    for callback in (None, EsperCallback()):
        module = made(kind)
        watching = [callback] if callback else []
        trainer = fit(module, breaks(module, fault), *watching, **settings)
        if callback is not None:
            assert bool(callback.watch.troubles) == (fault is not None)
            assert (callback.watch.failures, callback.watch.last_failure) == (0, "")
            if fault is not None:
                assert only(callback.watch).explanation.origin is not None
        states = [optimizer.state_dict()["state"] for optimizer in trainer.optimizers]
        counters = module.layer.calls, getattr(module, "calls", 0), trainer.global_step
        metrics = dict(trainer.callback_metrics)
        results.append((module.state_dict(), states, torch.get_rng_state(), counters, metrics))

    plain, watched = results
    for mine, other in zip(plain, watched, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)


def test_skip_leaves_a_bad_step_out():
    module, callback = made(Regression), EsperCallback(on_nonfinite="skip")
    fit(module, callback, breaks(module, overflow), gradient_clip_val=0.5)

    assert all(bool(parameter.isfinite().all()) for parameter in module.parameters())
    assert [trouble.update for trouble in callback.watch.troubles] == [5]  # it lasts in the next


class Environmental(Regression):
    """A module that holds an environment, as reinforcement learning in Lightning does."""

    def __init__(self):
        import gymnasium

        super().__init__()
        self.world = gymnasium.make("CartPole-v1")


def test_a_module_that_holds_an_environment_is_not_run_again():
    module, callback = made(Environmental), EsperCallback()
    fit(module, callback, breaks(module, overflow))

    explanation = only(callback.watch).explanation
    assert explanation.origin is None
    assert "environment" in explanation.why_no_origin
    assert found(callback.watch) == [("shared", "loss", "nan")]


def test_an_exception_ends_the_run(runs):
    module, callback = made(Regression), EsperCallback()

    def refuse(values):
        raise ValueError(f"cannot learn from {values}")

    with pytest.raises(ValueError, match="cannot learn"):
        fit(module, callback, breaks(module, refuse))

    (directory,) = runs.iterdir()
    last = RunReader(directory).read(0, 1000)[-1].payload
    assert last.status == "failed"
    assert "training_step" not in vars(module.trainer.strategy)
