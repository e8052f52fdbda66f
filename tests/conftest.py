"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the test data that is not in the repository (``mini_real`` etc.); tests that need it skip without it."""
    default = Path(__file__).resolve().parents[2] / "shared"
    root = Path(os.environ.get("UNIPIXEL_TEST_DATA", default))
    if not (root / "mini_real").is_dir():
        pytest.skip(f"no test data in {root}: set UNIPIXEL_TEST_DATA to the folder that holds mini_real/")
    return root
