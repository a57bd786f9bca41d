"""A network that timm does not know, and the short training of the checkpoint beside it.

    diffsens bench examples/small_cnn.py:small_cnn --checkpoint examples/small_cnn.safetensors \
        --dataset folder --data-dir CIFAR10/test --input-size 32 --mean 0.5 --std 0.25

`python examples/small_cnn.py CIFAR10/train` trains it again (a folder of images with one sub-folder a class).
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import nn

SHAPES = ((3, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1))
EPOCHS, BATCH, RATE, SEED = 5, 128, 0.2, 0


def small_cnn() -> nn.Module:
    """Three pairs of 3 x 3 convolutions with batch-norm, two of them strided, and a global average."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in SHAPES:
        convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def read(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """All images of a folder as (n, 3, 32, 32), normalised, and their classes in sorted order."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    files = [(file, k) for k, name in enumerate(classes) for file in sorted((folder / name).iterdir())]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file, _ in files])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255).sub_(0.5).div_(0.25)
    return images, torch.tensor([k for _, k in files])


def main(folder: Path) -> None:
    """Train with SGD under a one-cycle schedule, with flips and translations of up to four pixels."""
    images, labels = read(folder)
    generator = torch.Generator().manual_seed(SEED)
    torch.default_generator.manual_seed(SEED)
    model = small_cnn().to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    wrong = 0.0
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images), generator=generator)[: len(images) // BATCH * BATCH]
        wrong = 0
        for rows in order.split(BATCH):
            dx, dy = torch.randint(0, 9, (2,), generator=generator).tolist()
            batch = F.pad(images[rows], (4, 4, 4, 4))[:, :, dy : dy + 32, dx : dx + 32]
            if torch.rand((), generator=generator) < 0.5:
                batch = batch.flip(3)
            output = model(batch.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(output, labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            wrong += int((output.argmax(1) != labels[rows]).sum())
        print(f"epoch {epoch + 1}: training error {wrong / len(order):.3f}", flush=True)
    recipe = {
        "task": "CIFAR-10 (JPEG)",
        "epochs": EPOCHS,
        "batch": BATCH,
        "rate": RATE,
        "seed": SEED,
        "train_error": round(wrong / len(order), 4),
    }
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, Path(__file__).with_suffix(".safetensors"), metadata={"recipe": json.dumps(recipe)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
