"""Pages in a real browser: Chromium without a window and without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


def browse(url: str, screenshot: Path | None = None) -> tuple[str, list[str]]:
    """(DOM after the page's scripts ran, lines of its console) of a ``file://`` page; with ``screenshot`` a picture instead of the DOM."""
    if CHROMIUM is None:
        pytest.skip("no chromium or google-chrome on this machine: the page was not opened in a browser")
    profile = Path(url.removeprefix("file://").partition("#")[0]).parent / "profile"
    output = [f"--screenshot={screenshot}", "--window-size=1200,900"] if screenshot else ["--dump-dom"]
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}",
               "--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=5000", *output, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=os.environ | {"DBUS_SESSION_BUS_ADDRESS": "none"})
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
