"""The monitor of a training: what it measures, and that the training does not feel it."""

import json
import random
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from timm_diffsens import Diffeo, DiffsensWarning, UsageError, measure
from timm_diffsens.device.seeding import random_state
from timm_diffsens.integrations.lightning import Sensitivity
from timm_diffsens.integrations.loggers import log_record
from timm_diffsens.integrations.mlflow import MLflow
from timm_diffsens.integrations.optional import optional
from timm_diffsens.integrations.sample import fixed_sample
from timm_diffsens.integrations.tensorboard import TensorBoard
from timm_diffsens.integrations.training import Monitor
from timm_diffsens.integrations.wandb import WandB
from timm_diffsens.results.report.training_chart import training_figure
from timm_diffsens.schema.records import Record


class Restless(nn.Module):
    """Draws from every global stream and writes into its buffers, in evaluation mode too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.last = torch.full((), float(x.detach().mean()))
        return x + 1e-3 * (torch.rand(()).item() + random.random() + np.random.rand())  # noqa: NPY002


def network():
    torch.manual_seed(0)
    conv = torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 8, 3, padding=1))
    return nn.Sequential(
        OrderedDict(
            conv=conv,
            norm=nn.BatchNorm2d(8),
            relu=nn.ReLU(),
            restless=Restless(),
            drop=nn.Dropout(0.5),
            flat=nn.Flatten(),
            head=nn.Linear(8 * 16 * 16, 4),
        )
    )


@pytest.fixture
def images():
    return torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def state(model):
    """All that a training depends on, of values and of identities."""
    tensors = [*model.parameters(), *model.buffers()]
    hooks = [
        {name: dict(value) for name, value in vars(part).items() if name.endswith("_hooks")}
        for part in model.modules()
    ]
    gradients = {f"{name}.grad": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {
        "values": {name: value.clone() for name, value in [*model.state_dict().items(), *gradients.items()]},
        "gradients": [id(p.grad) for p in model.parameters()],
        "tensors": [(id(t), t.data_ptr(), t.stride(), t.requires_grad) for t in tensors],
        "modes": [part.training for part in model.modules()],
        "hooks": hooks,
        "streams": random_state(),
        "grad mode": torch.is_grad_enabled(),
    }


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_nothing_of_the_model_or_the_streams_changes(images):
    model = network()
    model.train()
    model.drop.eval()  # frozen parts have a mode of their own
    model.register_forward_hook(lambda *_: None)
    model(images).square().sum().backward()
    before = state(model)
    Monitor(images, layers="all", loggers=[Kept()])(model, 0)
    after = state(model)
    assert_same(before.pop("values"), after.pop("values"))
    assert before == after
    model(images)  # the comparison is not blind: a forward of the model's own does change these
    assert random_state() != before["streams"]
    assert model.restless.calls == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_streams_on_a_gpu_are_kept(images):
    model = network().cuda()
    torch.rand(1, device="cuda")
    model.restless.register_forward_hook(lambda *_: torch.rand(1, device="cuda"))
    before = torch.cuda.get_rng_state_all()
    Monitor(images)(model, 0)
    assert_same(before, torch.cuda.get_rng_state_all())


def trained(images, monitor):
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    random.seed(2)
    model = network().train()
    optimiser = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for epoch in range(2):
        for batch in DataLoader(TensorDataset(images.repeat(4, 1, 1, 1)), 8, shuffle=True):
            optimiser.zero_grad()
            model(batch[0]).square().mean().backward()
            optimiser.step()
        monitor(model, epoch)
    return model.state_dict(), optimiser.state_dict(), random_state()


def test_a_training_is_to_the_bit_what_it_is_without(images):
    alone = trained(images, lambda *_: None)
    watched = trained(images, Monitor(images, loggers=[Kept()]))
    assert_same(alone[:2], watched[:2])
    assert alone[2] == watched[2]


def test_a_compiled_model_is_not_compiled_again(images):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 2))
    model = torch.compile(plain, backend=backend)
    first = model(images)
    once = len(compiled)
    assert once >= 1
    monitor = Monitor(images)
    assert monitor(model, 0).layers == measure(plain, images)
    assert_same(model(images), first)
    assert len(compiled) == once


def test_it_measures_what_measure_measures(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    own = {"layers": "all", "diffeo": Diffeo(1.5), "seed": 5, "batch_size": 2}
    monitor = Monitor(images, **own)
    measured = monitor(model, 3)
    assert measured is monitor.history[0]
    assert measured.epoch == 3
    assert measured.layers == measure(model, images, **own)
    assert [row["layer"] for row in monitor.rows()] == [layer.layer for layer in measured.layers]
    row = monitor.rows()[-1]
    output = measured.layers[-1]
    assert (row["epoch"], row["r"], row["r_stderr"]) == (3, output.r, output.r_stderr)
    assert 0 < row["seconds"] == measured.seconds
    assert list(monitor.frame()["d"]) == [layer.d for layer in measured.layers]
    record = monitor.record(model, input_size=16)
    assert record.output == output.rounded()
    assert record.data.n == len(images)


def test_it_is_the_turn_of_each_so_many_epochs(images):
    model, monitor = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()), Monitor(images, every=3)
    done = [monitor(model, epoch) for epoch in range(7)]
    assert [epoch for epoch, one in enumerate(done) if one] == [0, 3, 6]
    monitor(model, 6)  # an epoch that is done again takes the place of what it was
    assert [one.epoch for one in monitor.history] == [0, 3, 6]


def test_the_history_goes_through_a_checkpoint(images):
    model, monitor = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()), Monitor(images)
    for epoch in range(2):
        monitor(model, epoch)
    other = Monitor(images)
    other.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    assert other.history == monitor.history


class Sorted(Dataset):
    """Ten classes one after the other, with an augmentation that draws from the global streams."""

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        torch.rand(1)
        random.random()
        return torch.full((3, 4, 4), float(index // 100)), index // 100


def test_a_sample_of_a_set_is_of_all_classes_and_always_the_same():
    before = random_state()
    monitor = Monitor(Sorted(), count=200)
    assert random_state() == before
    counts = monitor.images[:, 0, 0, 0].long().bincount()
    assert counts.sum() == 200
    assert counts.min() >= 8  # 20 expected, with a standard deviation of 4
    assert_same(fixed_sample(DataLoader(Sorted(), 7), 200, 0), monitor.images)
    assert not torch.equal(fixed_sample(Sorted(), 200, 1), monitor.images)


def test_of_a_loader_without_a_length_the_first_images_are_taken():
    class Endless(IterableDataset):
        def __iter__(self):
            yield from (torch.full((1, 2, 2), float(k)) for k in range(10**9))

    taken = fixed_sample(DataLoader(Endless(), 8), 20, 0)
    assert taken[:, 0, 0, 0].tolist() == list(range(20))


def test_a_tensor_is_taken_whole_and_copied(images):
    monitor = Monitor(images, count=2)
    given = images.clone()
    images.zero_()
    assert_same(monitor.images, given)


class Kept:
    """A logger that keeps what it gets, and draws from the global streams."""

    def __init__(self):
        self.values, self.pictures, self.files = [], [], {}

    def scalars(self, values, epoch):
        random.random()
        self.values.append((epoch, dict(values)))

    def picture(self, name, png, epoch):
        torch.rand(1)
        self.pictures.append((epoch, name, png))

    def file(self, name, content):
        self.files[name] = content


def test_loggers_get_the_measures_that_are_asked_for_and_the_cost(images):
    model, logger = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten()), Kept()
    monitor = Monitor(images, layers="all", measures=("r", "g"), loggers=[logger])
    layers = monitor(model, 4).layers
    ((epoch, values),) = logger.values
    assert epoch == 4
    expected = {f"R/{layer.layer}": layer.r for layer in layers} | {f"G/{one.layer}": one.g for one in layers}
    assert values == expected | {"diffsens/seconds": monitor.history[0].seconds}
    ((epoch, name, png),) = logger.pictures
    assert (epoch, name) == (4, "diffsens/depth")
    assert png.startswith(b"\x89PNG")


def test_one_logger_needs_no_list(images):
    model, logger = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()), Kept()
    monitor = Monitor(images, loggers=logger)
    monitor(model, 0)
    log_record(monitor.record(model, input_size=16), logger, epoch=1)
    assert [epoch for epoch, _ in logger.values] == [0, 1]


def test_arguments_in_the_wrong_order_are_refused(images):
    model = nn.Flatten()
    with pytest.raises(UsageError, match=r"monitor\(model, epoch\), .*, got \(int, Flatten\)"):
        Monitor(images)(0, model)


def test_a_check_finds_what_a_measurement_would_and_leaves_nothing(images):
    model = network().train()
    before = state(model)
    Monitor(images).check(model)
    after = state(model)
    assert_same(before.pop("values"), after.pop("values"))
    assert before == after
    wrong = Monitor(images, layers="stage")
    with pytest.raises(UsageError, match=r"did you mean stages\?.*select_layers\(model, 'all', images\)"):
        wrong.check(model)
    assert wrong.history == []


def test_a_check_warns_of_what_a_measurement_would(images):
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())
    nn.init.zeros_(model[0].weight)
    with pytest.warns(DiffsensWarning, match="no layer"):
        Monitor(images, layers="all").check(model)


def test_a_layer_without_a_value_is_left_out(images):
    model, logger = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()), Kept()
    nn.init.zeros_(model[0].weight)
    with pytest.warns(match="no layer"):
        Monitor(images, layers="all", loggers=[logger])(model, 0)
    assert set(logger.values[0][1]) == {"diffsens/seconds"}


def test_a_record_is_logged_as_a_file_that_can_be_read_again(images, tmp_path):
    model, logger = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten()), Kept()
    record = Monitor(images, layers="all").record(model, input_size=16)
    log_record(record, [logger], epoch=9)
    ((name, content),) = logger.files.items()
    (tmp_path / name).write_bytes(content)
    assert Record.load(tmp_path / name) == record
    assert logger.values[0][0] == 9
    assert logger.values[0][1][f"R/{record.output.layer}"] == record.output.r
    assert logger.pictures[0][2].startswith(b"\x89PNG")


def test_the_chart_has_the_first_and_the_last_of_many_epochs(images):
    layers = measure(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()), images)
    drawn = training_figure(dict.fromkeys(range(0, 100, 5), layers), ("r",)).to_dict()
    names = list(dict.fromkeys(row["variant"] for row in drawn["datasets"]["depth"]))
    assert (names[0], names[-1], len(names)) == ("epoch 0", "epoch 95", 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"measures": ("R",)}, "unknown measure 'R'; .*r"),
        ({"images": torch.zeros(1, 3, 8, 8)}, r"at least 2 images .*\(1, 3, 8, 8\)"),
        ({"images": [["cat.png"]]}, "expected images as tensors, .* got str"),
        (
            {"images": (torch.zeros(4, 3, 8, 8), torch.zeros(4))},
            r"got a tuple with tensors \(4, 3, 8, 8\), \(4,\): .* labels or masks give batch\[0\]",
        ),
        (
            {"images": [torch.zeros(4, 3, 8, 8), torch.zeros(4, 3, 8, 8)]},
            r"got a list with tensors .* labels or masks give batch\[0\], .* torch\.cat\(batches\)",
        ),
        ({"images": (torch.zeros(4, 3, 8, 8), ["cat"] * 4)}, r"got a tuple with tensors \(4, 3, 8, 8\): "),
        ({"loggers": ["tensorboard"]}, r"expected loggers such as TensorBoard\('runs'\).* got 'tensorboard'"),
        ({"loggers": TensorBoard}, "expected loggers .* got <class"),
        ({"diffeo": 1.0}, r"diffeo must be a deformation such as Diffeo\(delta=1.0\).* got 1.0"),
    ],
)
def test_wrong_use_is_refused_at_once(options, message, images):
    with pytest.raises(UsageError, match=message):
        Monitor(**{"images": images, **options})


@pytest.mark.parametrize(
    ("make", "library"), [(TensorBoard, "tensorboard"), (WandB, "wandb"), (MLflow, "mlflow")]
)
def test_a_missing_library_is_named_with_what_installs_it(make, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=rf"needs {library}, .*'timm-diffsens\[loggers\]'"):
        make()


def test_an_unknown_option_of_the_callback_is_refused_with_the_nearest():
    for package in ("lightning", "pytorch_lightning"):
        try:
            optional(package, "", "")
        except UsageError:
            continue
        with pytest.raises(UsageError, match="unknown option 'layer'; did you mean layers"):
            Sensitivity(layer="all")
        return
    with pytest.raises(UsageError, match=r"needs lightning, .*'timm-diffsens\[lightning\]'"):
        Sensitivity()
