"""The ``unipixel`` command for scripts under test, without the seconds that each start of Python with torch takes.

:class:`CommandServer` puts an executable ``unipixel`` into a folder for ``PATH``. It hands its arguments, folder and environment to this
process, which runs ``launch.cli.main`` in a real process of its own, forked from one that has imported everything.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socketserver
import sys
import threading
import time
from pathlib import Path
from typing import Self

import torch

from launch.cli import main
from tests.tiny_run import PRELOAD

IMPORTED = [*PRELOAD, "tests.command_server", "benchmarks.film_runs.command", "benchmarks.film_runs.grid", "data_tools.film.command",
            "data_tools.film.sample", "data_tools.pack", "data_tools.preference.make", "data_tools.preference.filter", "unipixel.train.dpo",
            "benchmarks.film_report.tables", "benchmarks.film_report.panels"]
CLIENT = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    server.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode() + b"\\n")
    code, out, log = json.loads(server.makefile().read())
sys.stdout.write(out)
sys.stderr.write(log)
sys.exit(code)
"""


def _run(argv: list[str], folder: str, environment: dict[str, str], out: str, log: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, out), (2, log)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)
    code = main(argv)
    sys.stdout.flush()
    sys.exit(code)


class CommandServer:
    """A context manager; ``bin`` goes in front of ``PATH``, ``calls`` are the command lines so far with exit code and seconds."""

    def __init__(self, folder: Path):
        self.bin, self.calls = folder / "bin", []
        self.bin.mkdir(parents=True)
        address = str(folder / "socket")
        client = self.bin / "unipixel"
        client.write_text(CLIENT.format(python=sys.executable, address=address))
        client.chmod(0o755)
        context, calls = multiprocessing.get_context("forkserver"), self.calls
        context.set_forkserver_preload(IMPORTED)

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                argv, where, environment = json.loads(self.rfile.readline())
                files = [str(folder / name) for name in ("out", "log")]
                process = context.Process(target=_run, args=(argv, where, environment, *files))
                started = time.perf_counter()
                process.start()
                process.join()
                calls.append((argv, process.exitcode, time.perf_counter() - started))
                texts = [Path(file).read_text(errors="replace") for file in files]
                self.wfile.write(json.dumps([process.exitcode, *texts]).encode())

        self.server = socketserver.UnixStreamServer(address, Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()
