"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the tests start several processes on few cores

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the test data that is not in the repository (``mini_real`` etc.); tests that need it skip without it."""
    default = Path(__file__).resolve().parents[2] / "shared"
    root = Path(os.environ.get("UNIPIXEL_TEST_DATA", default))
    if not (root / "mini_real").is_dir():
        pytest.skip(f"no test data in {root}: set UNIPIXEL_TEST_DATA to the folder that holds mini_real/")
    return root


@pytest.fixture
def no_waiting(monkeypatch):
    """Requests to a model's service that failed are tried again at once."""
    from tenacity import wait_none

    from data_tools.preference import service

    monkeypatch.setattr(service, "BACKOFF", wait_none())


@pytest.fixture(scope="module")
def alone():
    """Function: (function, its arguments) -> its result, from a process of its own. After thousands of tests this one's heap is so large and so
    full of holes that it slows what is timed in it, and grows in what is forked from it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield lambda function, *args: process.submit(function, *args).result()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """``tests.tiny_run.Assets``: model folder and shards of a toy training, made once per session."""
    from tests.tiny_run import make_assets  # imports all of training, which most tests do not need

    return make_assets(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_qwen3(tiny, tmp_path_factory):
    """The same assets with a model folder of the Qwen3-VL family."""
    from tests.tiny_run import with_family

    return with_family(tiny, "qwen3_vl", tmp_path_factory.mktemp("tiny_qwen3"))
