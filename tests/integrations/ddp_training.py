"""A training in two processes, `ddp_training.py PACKAGE FOLDER watched|alone`; what each has in the end."""

import importlib
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from timm_diffsens.integrations.lightning import Sensitivity

EPOCHS = 2


class Steps:
    """Of a LightningModule."""

    def __init__(self):
        super().__init__()
        first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.model = nn.Sequential(first, nn.Flatten(), nn.Dropout(0.5), nn.Linear(4 * 256, 10))

    def forward(self, images):
        return self.model(images)

    def training_step(self, batch, number):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, number):
        self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)


def images(count):
    draws = torch.Generator().manual_seed(count)
    labels = torch.randint(10, (count,), generator=draws)
    return TensorDataset(torch.randn(count, 3, 16, 16, generator=draws), labels)


def main(package, folder, watched):
    lightning = importlib.import_module(package)
    loggers = importlib.import_module(f"{package}.loggers")
    torch.set_num_threads(1)
    lightning.seed_everything(0, verbose=False)
    callback = Sensitivity(count=8, layers="all", record=True)
    module = type("Module", (Steps, lightning.LightningModule), {})()
    board = loggers.TensorBoardLogger(folder / "board", version=0)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        strategy="ddp",
        devices=2,
        callbacks=[callback] if watched else [],
        logger=board,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
    )
    trainer.fit(module, DataLoader(images(32), 8, shuffle=True), DataLoader(images(12), 6))
    history = callback.monitor.state_dict()["history"] if watched else []
    left = {"weights": module.state_dict(), "draw": torch.rand(1), "history": history}
    left["logged"] = {name: float(value) for name, value in trainer.callback_metrics.items()}
    torch.save(left, folder / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "watched")
