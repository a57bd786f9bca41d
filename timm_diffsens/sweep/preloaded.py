"""What every worker process needs, imported once: they are forked from a process that holds it."""

from timm_diffsens.device import allocator

allocator.prepare()

import timm  # noqa: E402, F401
import torch  # noqa: E402
import torchvision  # noqa: E402, F401

import timm_diffsens.sweep.process  # noqa: E402
import timm_diffsens.sweep.work  # noqa: E402, F401
from timm_diffsens.sensitivities.reductions import dispatch  # noqa: E402

dispatch.prepare(torch.device("cpu"))
