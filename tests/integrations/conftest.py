"""Where every library is said to be installed, as by `.ci/integrations`, a missing one fails its tests."""

import importlib
import os

import pytest

if os.environ.get("DIFFSENS_ALL_LIBRARIES"):

    def imported(name: str, **_: object) -> object:
        return importlib.import_module(name)

    pytest.importorskip = imported
