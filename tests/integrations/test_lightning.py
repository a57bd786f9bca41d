"""The callback in real trainings with Lightning, of either package."""

import importlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from timm_diffsens import Diffeo, UsageError, measure
from timm_diffsens.device.seeding import random_state
from timm_diffsens.integrations.lightning import Sensitivity
from timm_diffsens.schema.records import Record

EPOCHS = 2


class Pictures(Dataset):
    """Noise of CIFAR-10's size, with an augmentation that draws from every global stream."""

    def __init__(self, count, augmented):
        self.images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))
        self.augmented = augmented

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        if self.augmented:
            image = image.roll(int(torch.randint(5, ())), -1) * (1 + random.random())
            image = image.flip(-1) if np.random.rand() < 0.5 else image  # noqa: NPY002
        return image, index % 10


def network():
    def block(inputs, outputs):
        conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))

    head = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16 * 64, 10))
    return nn.Sequential(block(3, 8), block(8, 16), head)


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def lightning(request):
    return pytest.importorskip(request.param, reason="of the lightning extra")


@pytest.fixture
def fit(lightning, tmp_path):
    """Trains for two epochs with these callbacks; gives module, trainer and what a training leaves."""

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = network()

        def forward(self, x):
            return self.model(x)

        def training_step(self, batch, number):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, number):
            self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self):
            optimiser = torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)
            return [optimiser], [torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)]

    def fitted(*callbacks, logger=False, epochs=EPOCHS, checkpoint=None):
        lightning.seed_everything(0, verbose=False)
        module = Module()
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=logger,
            callbacks=list(callbacks),
            default_root_dir=tmp_path,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            log_every_n_steps=1,
        )
        loaders = DataLoader(Pictures(96, True), 32, shuffle=True), DataLoader(Pictures(40, False), 20)
        trainer.fit(module, *loaders, ckpt_path=checkpoint)
        left = module.state_dict(), trainer.optimizers[0].state_dict(), random_state()
        return module, trainer, left

    return fitted


def test_the_weights_are_to_the_bit_those_of_a_training_without_it(fit, record_property):
    alone = fit()[2]
    begun = time.perf_counter()
    callback = Sensitivity(count=16)
    watched = fit(callback)[2]
    seconds = time.perf_counter() - begun
    torch.testing.assert_close(alone[:2], watched[:2], rtol=0, atol=0)
    assert alone[2] == watched[2]
    assert [done.epoch for done in callback.monitor.history] == [0, 1]
    assert 0 < sum(done.seconds for done in callback.monitor.history) < seconds
    first, last = callback.monitor.history  # the comparison is not of trainings that did nothing
    assert first.layers != last.layers


def test_it_measures_the_network_as_it_is_at_the_end_of_an_epoch(fit):
    own = {"layers": "all", "diffeo": Diffeo(1.5), "seed": 3}
    callback = Sensitivity(module="model", count=10, **own)
    module, trainer, _ = fit(callback)
    images = callback.monitor.images
    assert len(images) == 10
    assert all(any(torch.equal(image, one) for one in Pictures(40, False).images) for image in images)
    found = measure(module.model, images, **own)
    assert callback.monitor.history[-1].layers == found
    for layer in found:
        assert float(trainer.callback_metrics[f"R/{layer.layer}"]) == pytest.approx(layer.r)


def test_numbers_charts_and_the_record_are_in_the_trainers_loggers(fit, lightning, tmp_path):
    pytest.importorskip("tensorboard", reason="of the loggers extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loggers = importlib.import_module(f"{lightning.__name__}.loggers")
    board = loggers.TensorBoardLogger(tmp_path / "board")
    table = loggers.CSVLogger(tmp_path / "table")
    callback = Sensitivity(torch.randn(6, 3, 32, 32), layers="stages", record=True, measures=("r",))
    fit(callback, logger=[board, table])
    events = EventAccumulator(board.log_dir).Reload()
    expected = [done.layers[-1].r for done in callback.monitor.history]
    assert [event.value for event in events.Scalars("R/output")][:EPOCHS] == pytest.approx(expected)
    assert len(events.Images("diffsens/depth")) == EPOCHS + 1
    record = Record.load(next((tmp_path / "board").rglob("*.json")))
    assert record.output == callback.monitor.history[-1].layers[-1].rounded()
    assert f"{expected[0]:.5f}" in next((tmp_path / "table").rglob("metrics.csv")).read_text()


def test_a_training_that_goes_on_has_the_history_before(fit, tmp_path):
    callback = Sensitivity(torch.randn(4, 3, 32, 32))
    _, trainer, _ = fit(callback)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    other = Sensitivity(torch.randn(4, 3, 32, 32))
    fit(other, epochs=EPOCHS + 1, checkpoint=tmp_path / "last.ckpt")
    assert [done.epoch for done in other.monitor.history] == [0, 1, 2]
    assert other.monitor.history[:2] == callback.monitor.history


def test_a_part_that_is_not_there_is_refused_with_the_nearest(fit):
    with pytest.raises(UsageError, match="unknown module 'modell'; did you mean model"):
        fit(Sensitivity(torch.randn(4, 3, 32, 32), module="modell"))


@pytest.mark.slow
def test_where_two_processes_train_both_go_on_and_the_first_logs(tmp_path):
    """DDP over gloo: the weights are to the bit those of the same training without the callback."""
    for library in ("lightning.pytorch", "tensorboard"):
        pytest.importorskip(library, reason="of the extras lightning and loggers")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    script, left = Path(__file__).with_name("ddp_training.py"), {}
    for kind in ("alone", "watched"):
        (tmp_path / kind).mkdir()
        command = [sys.executable, str(script), "lightning.pytorch", str(tmp_path / kind), kind]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
        assert done.returncode == 0, done.stderr
        left[kind] = [torch.load(tmp_path / kind / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for alone, watched in zip(left["alone"], left["watched"], strict=True):
        for part in ("weights", "draw"):
            torch.testing.assert_close(watched[part], alone[part], rtol=0, atol=0)
        assert [epoch["epoch"] for epoch in watched["history"]] == [0, 1]
        assert watched["history"][0]["layers"] != watched["history"][1]["layers"]
    first, second = (kept["history"] for kept in left["watched"])
    assert [epoch["layers"] for epoch in first] == [epoch["layers"] for epoch in second]
    expected = [epoch["layers"][-1]["r"] for epoch in first]
    logged = [kept["logged"]["R/model.3"] for kept in left["watched"]]
    assert logged == pytest.approx([expected[-1]] * 2)
    (folder,) = (tmp_path / "watched" / "board").rglob("version_0")
    assert len(list(folder.glob("events*"))) == len(list(folder.glob("*.json"))) == 1
    events = EventAccumulator(str(folder)).Reload()
    assert [event.value for event in events.Scalars("R/model.3")][:EPOCHS] == pytest.approx(expected)
    assert len(events.Images("diffsens/depth")) == EPOCHS + 1  # those of the epochs and of the record


def test_layers_that_are_not_there_are_refused_before_the_first_step(fit):
    steps = []

    class Steps(Sensitivity):
        def on_train_batch_start(self, *_):
            steps.append(1)

    with pytest.raises(UsageError, match="unknown layer or pattern 'stage'; did you mean stages"):
        fit(Steps(torch.randn(4, 3, 32, 32), module="model", layers="stage", every=2))
    with pytest.raises(UsageError, match="unknown module 'net'; Module has model"):
        fit(Steps(torch.randn(4, 3, 32, 32), module="net", every=2))
    assert steps == []
