"""Where every library is said to be installed, as by `.ci/integrations`, a missing one fails its tests."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def all_required() -> Iterator[None]:
    """Inside, `pytest.importorskip` fails where it would skip."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("DIFFSENS_ALL_LIBRARIES"):
            patch.setattr(pytest, "importorskip", lambda name, **_: importlib.import_module(name))
        yield


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Of the files of this folder, which ask for libraries as they are imported."""
    with all_required():
        return (yield)


@pytest.fixture(autouse=True)
def tests_need_all():
    with all_required():
        yield
