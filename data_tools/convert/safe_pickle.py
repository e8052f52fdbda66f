"""Reading pickles of released datasets without running anything they contain: containers, numbers and text only.

Some public annotation files (REFER, mask dictionaries of video sets) exist as pickles, partly from Python 2. A pickle can call any
importable function; this reader knows a handful of built-in types and refuses every other name, so a tampered file is an error.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from unipixel.errors import DataError

BUILTINS = ("__builtin__", "builtins")
ALLOWED = {"set": set, "frozenset": frozenset, "int": int, "long": int, "float": float, "bool": bool, "str": str, "unicode": str}
"""What plain data may name; lists, dicts, tuples and scalars themselves need no name in a pickle."""


def load_pickle(path: Path) -> Any:
    """The plain data of a pickle of any protocol. Text of Python 2 (``str``) is read as latin-1, which loses no byte.

    Raises:
        DataError: no such file, not a pickle, or one that names anything but ``ALLOWED``.
    """
    try:
        with open(path, "rb") as file:
            return _PlainData(file, encoding="latin-1").load()
    except FileNotFoundError:
        raise DataError(f"no file {path}: check --input") from None
    except _Refused as error:
        raise DataError(f"{path} wants to run {error}; only plain data is read from a pickle: get the file from its publisher") from error
    except Exception as error:  # a damaged pickle raises nearly anything: that is the file's fault whatever its type
        raise DataError(f"{path} is not a readable pickle: {error!r}") from error


class _Refused(Exception):
    """Name that the pickle asked for."""


class _PlainData(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in BUILTINS and name in ALLOWED:
            return ALLOWED[name]
        if (module, name) == ("_codecs", "encode"):  # how protocols below 3 write the ``bytes`` of Python 3
            return lambda text, codec: text.encode("latin-1")
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused(f"persistent object {pid!r}")
