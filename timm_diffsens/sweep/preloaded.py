"""What every worker process needs, imported once: they are forked from a process that holds it."""

from timm_diffsens import runtime

runtime.prepare()

import timm  # noqa: E402, F401
import torch  # noqa: E402
import torchvision  # noqa: E402, F401

import timm_diffsens.sweep.work  # noqa: E402, F401
from timm_diffsens.measures import reductions  # noqa: E402

reductions.prepare(torch.device("cpu"))
