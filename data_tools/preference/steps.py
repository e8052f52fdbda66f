"""What the recipes share: the media of packed folders by key, and asking one thing of each item with all failures listed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from data_tools.preference.chat import ChatClient, Reply
from data_tools.preference.frames import FrameRule, Shown, show
from data_tools.preference.messages import ChatRequest, Message, user
from data_tools.preference.prompts import Prompt
from data_tools.validate import bundles_of
from unipixel.data.index import replace_file
from unipixel.data.ledger import SkipLedger
from unipixel.data.shards import ShardDataset
from unipixel.errors import ConfigError, SampleError
from unipixel.sample import Sample

Item = TypeVar("Item")
Parsed = TypeVar("Parsed")


class Media:
    """Bundles of packed folders by their key.

    Raises:
        DataError: a folder is no packed dataset.
        ConfigError: two folders hold the same key.
    """

    def __init__(self, folders: Sequence[str | Path]):
        self.data = ShardDataset(folders)
        keys = self.data.rows["key"].to_pylist()
        self._rows: dict[str, tuple[int, ...]] = {}
        for rows in bundles_of(self.data):
            if keys[rows[0]] in self._rows:
                raise ConfigError(f"key {keys[rows[0]]!r} is in more than one of the folders {list(map(str, folders))}")
            self._rows[keys[rows[0]]] = rows

    def require_splits(self, allowed: Sequence[str]) -> None:
        """Raises :class:`ConfigError` for folders of other splits: their answers must not be learnt, not even as wrong ones."""
        wrong = [str(folder) for folder, split in zip(self.data.paths, self.splits, strict=True) if split not in allowed]
        if wrong:
            raise ConfigError(f"{wrong} are not of the splits {allowed}: their answers must not be learnt, not even as wrong ones")

    def first(self, limit: int) -> list[str]:
        """The first keys; 0 for all."""
        return list(self)[:limit or None]

    def __iter__(self) -> Iterator[str]:
        """Keys in the order of the folders and their shards."""
        return iter(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def sample(self, key: str) -> Sample:
        """A medium with all its examples. Raises :class:`SampleError`, also for a key that the folders do not hold (``no_medium``)."""
        if key not in self._rows:
            raise SampleError(f"medium {key!r} is not in --shards", reason="no_medium")
        rows = self._rows[key]
        return self.data.sample(rows[0], rows)

    @property
    def splits(self) -> list[str]:
        """Split of each folder."""
        return [manifest["split"] for manifest in self.data.manifests]


class Looks:
    """Frames of media by rule. Those of the last medium are kept: its requests follow each other, and decoding costs more than asking."""

    def __init__(self, media: Media):
        self._media = media
        self._sample: Sample | None = None
        self._kept: dict[FrameRule, Shown] = {}

    def __call__(self, key: str, rule: FrameRule) -> Shown:
        """Raises :class:`SampleError` as :func:`~data_tools.preference.frames.show` does."""
        if self._sample is None or self._sample.key != key:
            self._sample, self._kept = self._media.sample(key), {}
        if rule not in self._kept:
            self._kept[rule] = show(self._sample, rule)
        return self._kept[rule]


def framed(shown: Shown | None, prompt: Prompt, **values: Any) -> tuple[Message, ...]:
    """One user turn: the frames, then the filled-in prompt, which begins with the line about them."""
    if shown is None:
        return user(prompt.render(**values))
    return user(*shown.pictures, prompt.render(frames=shown.header, **values))


def ask_each(client: ChatClient, items: Iterable[tuple[str, Item]], request_of: Callable[[str, Item], ChatRequest],
             parse: Callable[[Reply], Parsed], what: str, ledger: SkipLedger) -> Iterator[tuple[str, Item, Parsed]]:
    """(key, item, parsed reply) of each item that gets a usable reply, in order; the others are listed with their key.

    ``request_of`` runs in the caller's thread and may read frames.
    """
    def jobs() -> Iterator[tuple[tuple[str, Item], ChatRequest]]:
        for key, item in items:
            request = None
            with ledger.catching(what, key):
                request = request_of(key, item)
            if request is not None:
                yield (key, item), request

    for (key, item), future in client.ask_all(jobs(), what):
        done = None
        with ledger.catching(what, key):
            done = (parse(future.result()),)
        if done is not None:
            yield key, item, *done


def made_by(client: ChatClient, prompt: Prompt, request: ChatRequest, shown: Shown | None = None) -> dict[str, Any]:
    """Provenance of a reply."""
    return {"generator": client.endpoint.identity, "prompt": prompt.provenance, "sampling": request.content["sampling"], "request": request.key,
            **({"frames": shown.provenance} if shown is not None else {})}


def skip_file(out: str | Path) -> Path:
    """Where the skipped items of a step are listed."""
    return Path(f"{out}.skipped.jsonl")


def finish(out: str | Path, ledger: SkipLedger, clients: Iterable[ChatClient] = ()) -> dict[str, Any]:
    """Write the list of skipped items, print their summary and the counters of each role, and return the latter."""
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    ledger.write(skip_file(out))
    print("\n".join(ledger.summary()) or "nothing skipped")
    counted = {client.role: client.report() for client in clients}
    for role, counts in counted.items():
        print(f"{role}: " + ", ".join(f"{name} {value}" for name, value in counts.items()))
    result = {"skipped": ledger.counts, "notes": dict(ledger.notes), "roles": counted}
    replace_file(Path(f"{out}.report.json"), (json.dumps(result, indent=1) + "\n").encode())
    return result
