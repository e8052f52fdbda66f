"""Which runs a command means: every model over every pooling method, where each lies, and whether it is there already.

A cell is one model on the pictures of one method. It is finished when its summary is written; the hash of everything that decides its
replies is stored inside, so that a cell of other settings is never taken for it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.protocol import content_hash
from data_tools.pooling.operators import METHODS, SHORT
from unipixel.data.index import is_dataset
from unipixel.data.shards import ShardDataset
from unipixel.errors import ConfigError, DataError

PREDICTIONS, SUMMARY = "predictions.jsonl", "predictions.summary.json"
BENCH, ASKED = "bench", "asked.json"
"""Folder of the runner inside a cell, and its note of what is being asked there."""
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {}, "keyframe_only": {"show_frames": "key_frame"}, "text_only": {"show_frames": "none"}, "frames_only": {"use_subtitles": False},
    "classic": {"prompt": "film_classic"}}
"""Ablations: what the model is shown differently."""
State = Literal["absent", "unfinished", "asked", "finished", "other"]


@dataclass(frozen=True)
class Cell:
    """One model on one method.

    Attributes:
        adapter: folder name of the trained model; ``None`` for the base.
        shards: packed questions with this method's pictures.
        out: folder of the run.
        asked: everything that decides the replies; ``scored``: what else decides the numbers.
    """

    adapter: str | None
    method: str
    shards: str
    out: Path
    asked: Mapping[str, Any]
    scored: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.adapter or 'base'} on {self.method}"

    @property
    def hashes(self) -> dict[str, str]:
        return {"asked": content_hash(self.asked), "scored": content_hash(self.scored)}

    def state(self, overwrite: bool = False) -> State:
        """``finished``: nothing to do; ``asked``: the replies are there, the numbers are to be made (again); ``other``: a run of other settings.

        Raises:
            ConfigError: a run of other settings, without ``overwrite``.
        """
        summary, note, mine = self.out / SUMMARY, self.out / BENCH / ASKED, self.hashes
        for path in (summary, note):
            if path.is_file() and (stored := _read(path).get("hashes", {}).get("asked")) != mine["asked"]:
                if overwrite:
                    return "other"
                raise ConfigError(f"{self.out} holds a run of {self.name} with other settings ({path.name} says {stored}, this is {mine['asked']}): "
                                  "set overwrite: true to make it anew, or choose another out")
        if summary.is_file() and (self.out / PREDICTIONS).is_file():
            return "finished" if _read(summary)["hashes"] == mine else "asked"
        return "unfinished" if note.is_file() else "absent"

    def remove(self) -> None:
        """Delete a run of other settings."""
        for name in (SUMMARY, PREDICTIONS):
            (self.out / name).unlink(missing_ok=True)
        shutil.rmtree(self.out / BENCH, ignore_errors=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not readable JSON ({error}): remove it, and its run is scored again") from error


def method_name(name: str) -> str:
    """Folder name of a method: a short name is spelt out, any other stays."""
    return SHORT.get(name, name)


def method_folders(shards: str, methods: Sequence[str]) -> dict[str, str]:
    """Method -> its packed folder.

    Raises:
        ConfigError: a method is listed twice, or is not packed; all that are missing are named.
    """
    names = [method_name(name) for name in methods] or list(METHODS)
    if len(set(names)) != len(names):
        raise ConfigError(f"methods={list(methods)} lists a method twice")
    folders = {name: str(Path(shards) / name) for name in names}
    missing = [folder for folder in folders.values() if not is_dataset(folder)]
    if missing:
        raise ConfigError(f"{len(missing)} of {len(folders)} methods are not packed: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} no "
                          "folder of `unipixel pack`; pack it, or set methods")
    return folders


def check_same_questions(folders: Mapping[str, str]) -> None:
    """
    Raises:
        DataError: the methods hold different questions, so that their numbers could not be compared.
    """
    ids = {method: frozenset(ShardDataset(folder).rows["example_id"].to_pylist()) for method, folder in folders.items()}
    first = next(iter(ids))
    for method, found in ids.items():
        if found != ids[first]:
            stray = sorted(found ^ ids[first])
            raise DataError(f"{folders[first]} and {folders[method]} hold different questions, for instance {stray[:5]}: see skipped.jsonl of both, "
                            "and pack them again")


def find_adapters(models: str, wanted: Sequence[str] = ()) -> dict[str, Path]:
    """Name -> folder of every trained model in a folder, or of those ``wanted``.

    Raises:
        ConfigError: there is none, one that is wanted is not there, or a training has not ended.
    """
    folder = Path(models)
    if not folder.is_dir():
        raise ConfigError(f"models={models!r} is not a folder of trained models")
    found = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    if wanted:
        absent = [name for name in map(method_name, wanted) if name not in found]
        if absent:
            raise ConfigError(f"adapters={absent} are not in {models}, which has {list(found) or 'nothing'}")
        found = {name: found[name] for name in map(method_name, wanted)}
    if not found:
        raise ConfigError(f"no trained model in {models}: train some first (launch/run_sft.sh, launch/run_dpo.sh)")
    unfinished = [str(path) for path in found.values() if not (path / "config.json").is_file()]
    if unfinished:
        raise ConfigError(f"{', '.join(unfinished)} hold no finished model: start their training again, or name the others with adapters")
    return found
