"""What the benchmarks share: one process a setting, its memory, and a network to run in it."""

import contextlib
import ctypes
import json
import multiprocessing
import platform
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from timm_diffsens.device import allocator

MB = 2**20


@dataclass(frozen=True)
class Setting:
    """What a process measures: (a), (b), or a selection of layers; so many batches of so many images."""

    name: str
    model: str
    images: int
    batches: int
    threads: int
    device: str
    size: int | None = None
    pairs: int = 1
    limit: bool = False  # the small limit in the place of deformations, by `measure_infinitesimal`

    @property
    def bare(self):
        return self.name.startswith("(")

    @property
    def ours(self):
        """Whether the allocator and the layout are those of `measure`."""
        return self.name != "(a)"


class Process:
    """A process of its own that does one timed run when it is asked to."""

    def __init__(self, setting):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(setting, other), daemon=True)
        self.process.start()
        other.close()  # so that its end is seen
        self.about = self.pipe.recv()  # once it is warm

    def run(self):
        self.pipe.send("run")
        return self.pipe.recv()

    def close(self):
        self.pipe.send("end")
        self.process.join()


def serve(setting, pipe):
    """The process: warm up, then a timed run for each request."""
    run = prepare(setting)
    with contextlib.ExitStack() as stack:
        go, about = run(stack)
        go()
        pipe.send(about())
        while pipe.recv() == "run":
            pipe.send(go())


def prepare(setting):
    allocator.guard_torchvision()
    if setting.ours:
        allocator.tune_allocator()
    else:
        allocator.tune_allocator = lambda: False  # whatever is imported, the thresholds stay
    import timm  # noqa: F401
    import torch

    from timm_diffsens.models.inputs import InputOptions
    from timm_diffsens.models.loading import load_model
    from timm_diffsens.perturb.diffeo import Diffeo
    from timm_diffsens.sensitivities.forwards import channels_last
    from timm_diffsens.sensitivities.measure import measure_infinitesimal
    from timm_diffsens.sensitivities.perturbed import Perturbation, PerturbedImages
    from timm_diffsens.sensitivities.probe import Probe

    torch.set_num_threads(setting.threads)
    device = torch.device(setting.device)
    if not setting.bare:
        from timm_diffsens.sensitivities.reductions import dispatch

        dispatch.prepare(device)  # code, as what is imported
    start_memory(device)
    before = memory(device)
    side = InputOptions(size=(setting.size, setting.size)) if setting.size else InputOptions()
    loaded = load_model(setting.model, pretrained=False, input_options=side)
    model = loaded.module.eval().to(device)
    clean = torch.rand(setting.images, *loaded.input_shape, generator=torch.Generator().manual_seed(0))
    like, indices = next(model.parameters()), range(setting.images)

    deformations = tuple(Diffeo(delta=1 / (1 + k)) for k in range(setting.pairs))
    batches = round(setting.batches)
    images = PerturbedImages(lambda size: iter([(indices, clean)] * batches), Perturbation(deformations))

    def enter(stack):
        stack.enter_context(torch.no_grad())
        plain = torch.contiguous_format
        layout = stack.enter_context(channels_last(model)) if setting.ours else plain
        probe = None if setting.bare else stack.enter_context(Probe(model, setting.name, pairs=setting.pairs))
        batch = next(images.batches(setting.images, like, layout))[1]
        if probe:
            del batch

        def go():
            draws, start = 0.0, now(device)
            if probe is None:
                for _ in range(batches):
                    model(batch)
            else:
                coming = images.batches(setting.images, like, layout)
                asked = time.perf_counter()
                for _, triple in coming:
                    draws += time.perf_counter() - asked
                    model(triple)
                    asked = time.perf_counter()
            return {"seconds": now(device) - start, "draws": draws, "memory": memory(device) - before}

        return go, lambda: describe(probe, setting.images)

    def enter_limit(_):
        every = clean.repeat(batches, 1, 1, 1)

        def go():
            """All that a user waits for: the checks before the pass take as long whatever the images."""
            start = now(device)
            measure_infinitesimal(
                model, every, diffeo=deformations[0], layers=setting.name, batch_size=setting.images
            )
            return {"seconds": now(device) - start, "draws": 0.0, "memory": memory(device) - before}

        return go, lambda: describe(None, setting.images)

    return enter_limit if setting.limit else enter


def describe(probe, images):
    """Layers, and the sizes that memory is held against: bytes of the batch's largest activations."""
    if probe is None:
        return {"layers": None}
    made = {call.same_as: call for call in probe.trace.calls if call.floating}
    sizes = sorted((4 * _numel(call.shape) // 2 * 3 * images for call in made.values()), reverse=True)
    state = sum(e.pivot.numel() * 4 for e in probe._estimators.values())
    return {"layers": len(probe.layers), "three_largest": sum(sizes[:3]), "one_image": state}


def _numel(shape):
    total = 1
    for side in shape:
        total *= side
    return total


def now(device):
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter()


def start_memory(device):
    """Forget earlier peaks: all that is imported, and freed, does not count."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the kernel starts the peak anew (Linux)


def memory(device):
    """Peak bytes so far: of the process, or of what torch holds on the GPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def others(path, rows):
    """Rows that a file has of other networks and devices."""
    new = {(r["model"], r["device"]) for r in rows}
    old = json.loads(path.read_text()) if path.exists() else []
    return [r for r in old if (r["model"], r["device"]) not in new]


def machine(device="cpu"):
    """What the numbers depend on, without a name or a path."""
    cpus = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    where = f"{cpus[0] if cpus else platform.machine()}, {len(cpus)} cores"
    if device.startswith("cuda"):
        import torch

        where += f", {torch.cuda.get_device_name(device)}"
    return {
        "machine": where,
        "versions": ", ".join(
            [f"Python {platform.python_version()}"]
            + [f"{name} {metadata.version(name)}" for name in ("torch", "timm", "numba")]
        ),
    }
