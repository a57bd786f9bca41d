"""Each logger with its real library: what was logged is read back from where the library keeps it."""

import importlib.util
import json
import time
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from torch import nn

from timm_diffsens import UsageError
from timm_diffsens.integrations.loggers import log_record, scalars
from timm_diffsens.integrations.mlflow import MLflow
from timm_diffsens.integrations.tensorboard import TensorBoard
from timm_diffsens.integrations.training import SECONDS, Monitor
from timm_diffsens.integrations.wandb import EPOCH, WandB
from timm_diffsens.schema.records import Record

PNG = b"\x89PNG"


@pytest.fixture
def logged():
    """Two epochs and the record, logged by a logger that is given; what the epochs' numbers are."""
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 14 * 14, 3))

    def log(logger):
        monitor = Monitor(images, layers="all", loggers=[logger])
        for epoch in range(2):
            nn.init.normal_(model[0].weight, std=1 + epoch)
            monitor(model, epoch)
        record = monitor.record(model, input_size=16)
        log_record(record, [logger], epoch=2)
        return [monitor.scalars(done) for done in monitor.history], record

    return log


def test_tensorboard(logged, tmp_path):
    pytest.importorskip("tensorboard", reason="of the loggers extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    values, record = logged(TensorBoard(tmp_path))
    events = EventAccumulator(str(tmp_path)).Reload()
    for name in values[0]:
        read = [(event.step, event.value) for event in events.Scalars(name)]
        assert read[:2] == [(epoch, pytest.approx(values[epoch][name])) for epoch in range(2)]
    pictures = events.Images("diffsens/depth")
    assert [picture.step for picture in pictures] == [0, 1, 2]
    assert all(picture.encoded_image_string.startswith(PNG) for picture in pictures)
    (file,) = tmp_path.glob("*.json")
    assert Record.load(file) == record


def test_mlflow(logged, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="of the loggers extra")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient(tracking_uri=tmp_path.as_uri())
    run = client.create_run(client.create_experiment("deformations")).info.run_id
    values, record = logged(MLflow(run, client))
    for name in values[0]:
        history = sorted(client.get_metric_history(run, name), key=lambda metric: metric.step)
        assert [(metric.step, metric.value) for metric in history][:2] == [
            (epoch, pytest.approx(values[epoch][name])) for epoch in range(2)
        ]
    for epoch in range(3):
        picture = client.download_artifacts(run, f"diffsens/depth/epoch-{epoch:04d}.png", str(tmp_path))
        assert Path(picture).read_bytes().startswith(PNG)
    (name,) = (file.path for file in client.list_artifacts(run, "diffsens") if file.path.endswith(".json"))
    assert Record.load(client.download_artifacts(run, name, str(tmp_path))) == record


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("sqlite:///mlflow.db", "mlflow-skinny.*: pip install mlflow, or set MLFLOW_TRACKING_URI"),
        ("runs", "set MLFLOW_ALLOW_FILE_STORE=true .* or MLFLOW_TRACKING_URI"),
    ],
)
def test_mlflow_without_a_store_says_what_to_set(uri, message, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="of the loggers extra")
    if uri.startswith("sqlite") and importlib.util.find_spec("sqlalchemy"):
        pytest.skip("of mlflow-skinny alone: mlflow has databases")
    if uri == "runs" and Version(mlflow.__version__) < Version("3.17"):
        pytest.skip("of newer MLflow: older ones keep runs in folders")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UsageError, match=message):
        MLflow()


def test_mlflow_takes_names_and_numbers_of_layers_as_they_come(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="of the loggers extra")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient(tracking_uri=tmp_path.as_uri())
    run = client.create_run(client.create_experiment("names")).info.run_id
    names = [f"R/blocks.{k}.act#1[0]" for k in range(1001)]  # more than a request may have
    MLflow(run, client).scalars(dict.fromkeys(names, 0.5), 0)
    assert client.get_run(run).data.metrics == {f"R/blocks.{k}.act-1-0-": 0.5 for k in range(1001)}


def test_wandb(logged, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="of the loggers extra")
    monkeypatch.undo()  # its service is another process of this machine
    with wandb.init(project="deformations", mode="offline", dir=tmp_path) as run:
        values, record = logged(WandB(run))
        folder = Path(run.dir).parent
    rows, artifacts = read_back(folder)
    found = [row for row in rows if SECONDS in row]
    for epoch, row in enumerate(found):
        assert row[EPOCH] == epoch
        assert {name: row[name] for name in values[epoch]} == pytest.approx(values[epoch])
    assert len(found) == 2
    assert [row[EPOCH] for row in rows if "diffsens/depth.path" in row] == [0, 1, 2]
    pictures = list((folder / "files" / "media" / "images" / "diffsens").glob("depth_*.png"))
    assert len(pictures) == 3
    assert all(picture.read_bytes().startswith(PNG) for picture in pictures)
    (artifact,) = artifacts
    assert artifact.type == "record"
    (entry,) = artifact.manifest.contents
    assert Record.load(entry.local_path) == record


@pytest.mark.parametrize("counts", [True, False])
def test_wandb_drops_nothing_of_a_loop_that_counts_its_own_steps(counts, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="of the loggers extra")
    monkeypatch.undo()
    with wandb.init(project="deformations", mode="offline", dir=tmp_path) as run:
        logger = WandB(run)
        for epoch in range(4):
            run.log({"loss": float(epoch)}, step=epoch if counts else None)
            logger.scalars({"R/a": 10.0 + epoch}, epoch)
            logger.scalars({"R/b": 20.0 + epoch}, epoch)
        folder = Path(run.dir).parent
    rows, _ = read_back(folder)
    assert [row["loss"] for row in rows if "loss" in row] == [0, 1, 2, 3]
    assert [(row[EPOCH], row["R/a"], row["R/b"]) for row in rows if "R/a" in row] == [
        (epoch, 10 + epoch, 20 + epoch) for epoch in range(4)
    ]


def read_back(folder):
    """History and artifacts of an offline run, from the file that `wandb sync` reads."""
    from wandb.proto.wandb_internal_pb2 import Record as Entry

    (path,) = folder.glob("*.wandb")
    end = time.monotonic() + 60
    while True:  # the service writes on after the run has ended
        entries = [Entry.FromString(data) for data in log_entries(path.read_bytes())]
        if any(entry.WhichOneof("record_type") == "exit" for entry in entries):
            break
        assert time.monotonic() < end
        time.sleep(0.1)
    rows, artifacts = [], []
    for record in entries:
        kind = record.WhichOneof("record_type")
        if kind == "history":
            rows.append(flat(record.history.item))
        if kind == "artifact":
            artifacts.append(record.artifact)
        if kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
            artifacts.append(record.request.log_artifact.artifact)
    return rows, artifacts


def log_entries(data, header=7, block=2**15):
    """Entries of a log as LevelDB writes it: (checksum, length, kind), content; in blocks, after a header."""
    entry, place = b"", header
    while place + 7 <= len(data):
        if block - place % block < 7:  # no entry begins there
            place += block - place % block
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        entry += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield entry
            entry = b""


def flat(items):
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_scalars_are_of_layers_with_values():
    from timm_diffsens import LayerSensitivity

    layers = [
        LayerSensitivity.of(2, layer="a", d=1.0, g=2.0, r=0.5),
        LayerSensitivity.of(2, layer="b", d=3.0),
    ]
    assert scalars(layers, "rd") == {"R/a": 0.5, "D/a": 1.0, "D/b": 3.0}
