"""MLflow: numbers of a run, charts and records as artifacts."""

import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from timm_diffsens.errors import UsageError, first_line, said
from timm_diffsens.integrations.optional import optional

_MOST = 1000  # numbers that a request may have
_ALLOW = "MLFLOW_ALLOW_FILE_STORE"


class MLflow:
    """A `Logger` that logs to a run of MLflow.

    Args:
        run_id: of a run; by default the one that is under way, else a new one.
        client: an `MlflowClient`; by default one for the tracking URI that is set.

    Raises:
        UsageError: MLflow is not installed, or cannot open the store of the tracking URI.
    """

    def __init__(self, run_id: str | None = None, client: Any = None) -> None:
        self.mlflow = optional("mlflow", "MLflow", "loggers")
        try:
            if run_id is None:
                run_id = (self.mlflow.active_run() or self.mlflow.start_run()).info.run_id
            self.run_id, self.client = run_id, client or self.mlflow.MlflowClient()
        except self.mlflow.exceptions.MlflowException as error:
            raise UsageError(_advice(error)) from error

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """See `Logger`; what MLflow does not take in a name (`#`, `[`) is a `-`."""
        now = int(time.time() * 1000)
        named: dict[str, float] = {}
        for name, value in values.items():
            plain = re.sub(r"[^\w./ -]", "-", name)
            while plain in named:  # of another layer
                plain += "-"
            named[plain] = value
        metrics = [self.mlflow.entities.Metric(name, value, now, epoch) for name, value in named.items()]
        for start in range(0, len(metrics), _MOST):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + _MOST])

    def picture(self, name: str, png: bytes, epoch: int) -> None:
        """See `Logger`; an artifact `diffsens/depth/epoch-0003.png`."""
        self._put(PurePosixPath(name) / f"epoch-{epoch:04d}.png", png)

    def file(self, name: str, content: bytes) -> None:
        """See `Logger`; an artifact `diffsens/NAME`."""
        self._put(PurePosixPath("diffsens") / name, content)

    def _put(self, path: PurePosixPath, content: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="diffsens-") as folder:
            file = Path(folder) / path.name
            file.write_bytes(content)
            self.client.log_artifact(self.run_id, str(file), str(path.parent))


def _advice(error: Exception) -> str:
    """Why there is no run, and what mends it; without the URI, in which a password may stand."""
    from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException

    if isinstance(error, UnsupportedModelRegistryStoreURIException):
        return (
            "MLflow has no server to log to, and mlflow-skinny, which is installed, no database: "
            "pip install mlflow, or set MLFLOW_TRACKING_URI to a server, http://localhost:5000 say"
        )
    if _ALLOW in said(error):
        return (
            f"MLflow keeps runs in folders no longer: set {_ALLOW}=true to keep them there all the same, or "
            "MLFLOW_TRACKING_URI to a server or to sqlite:///mlflow.db"
        )
    return f"MLflow has no run to log to: {first_line(error)}"
