"""The files of a run: who works on a unit, what is done of it, and the checked lines that workers write.

``units/<number>.lease``   held by the worker that works on it; a dead worker's lease expires and the unit is taken over
``units/<number>.<worker>.part``  its predictions so far, one line each; a successor keeps them
``units/<number>.jsonl``   the finished unit, written whole: its name appears only with its content

A line carries the plan's fingerprint and a checksum: a line of an earlier run, or a damaged one, is never taken for a prediction.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from benchmarks.runner.plan import Plan, Unit
from unipixel.errors import ConfigError, DataError
from unipixel.infer.predictions import Prediction, from_record, to_record

UNITS = "units"


def to_line(prediction: Prediction, fingerprint: str) -> str:
    record = to_record(prediction)
    text = _canonical(record)
    return json.dumps({"plan": fingerprint, "crc32": zlib.crc32(text.encode("utf-8")), "prediction": record}, ensure_ascii=False,
                      separators=(",", ":"), allow_nan=False) + "\n"


def from_line(line: str, fingerprint: str) -> Prediction:
    """Raises :class:`DataError`: not a line of this form, of another plan, or damaged."""
    try:
        raw = json.loads(line)
        plan, crc, record = raw["plan"], raw["crc32"], raw["prediction"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"not a stored prediction: {error!r}") from error
    if plan != fingerprint:
        raise DataError(f"a prediction of another run (plan {str(plan)[:16]}, this one is {fingerprint})")
    if zlib.crc32(_canonical(record).encode("utf-8")) != crc:
        raise DataError("the checksum does not fit: the line was damaged or edited")
    return from_record(record)


def _canonical(record: Any) -> str:
    return json.dumps(record, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


class Units:
    """The unit files of one run folder, as one worker sees them."""

    def __init__(self, folder: Path, plan: Plan, worker: str):
        self.folder, self.plan, self.worker = folder / UNITS, plan, worker
        self.folder.mkdir(parents=True, exist_ok=True)
        self._leases: dict[int, SoftFileLease] = {}

    def final(self, unit: Unit) -> Path:
        return self.folder / f"{unit.number:06d}.jsonl"

    def finished(self, unit: Unit) -> bool:
        return self.final(unit).exists()

    def claim(self, unit: Unit) -> bool:
        """Try to become the worker of a unit; without waiting. A lease that shows no life for ``lease_s`` is taken over."""
        lease = self._leases.get(unit.number)
        if lease is None:  # kept between tries: expiry is measured by what this worker has seen
            lease = self._leases[unit.number] = SoftFileLease(self.folder / f"{unit.number:06d}.lease", lease_duration=self.plan.lease_s,
                                                              thread_local=False)
        try:
            lease.acquire(timeout=0)
        except Timeout:
            return False
        except LeaseSettingsMismatch as error:
            raise ConfigError(f"{lease.lock_file}: another worker runs with another lease: {error}") from error
        if self.finished(unit):
            self.release(unit)
            return False
        return True

    def release(self, unit: Unit) -> None:
        lease = self._leases.pop(unit.number, None)
        if lease is not None:
            lease.release(force=True)

    def lost(self, unit: Unit) -> bool:
        """Whether another worker has taken the unit over meanwhile."""
        return self._leases[unit.number].compromise is not None

    def _parts(self, unit: Unit) -> list[Path]:
        return sorted(self.folder.glob(f"{unit.number:06d}.*.part"))

    def inherited(self, unit: Unit) -> dict[str, Prediction]:
        """What this or earlier workers have done of the unit; a last line that was cut off is done again."""
        found: dict[str, Prediction] = {}
        for path in self._parts(unit):
            text = path.read_text(encoding="utf-8", errors="replace")
            for number, line in enumerate(text[:text.rfind("\n") + 1].splitlines(), 1):
                try:
                    prediction = from_line(line, self.plan.fingerprint)
                except DataError as error:
                    raise DataError(f"{path}:{number}: {error}; remove the file, and its unit is predicted again") from error
                found.setdefault(prediction.example_id, prediction)
        return {i: found[i] for i in unit.example_ids if i in found}

    def append(self, unit: Unit, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        """Store predictions as they come, and hand them on."""
        path = self.folder / f"{unit.number:06d}.{self.worker}.part"
        self._mend(path)
        with open(path, "a", encoding="utf-8") as file:
            for prediction in predictions:
                file.write(to_line(prediction, self.plan.fingerprint))
                file.flush()
                yield prediction

    @staticmethod
    def _mend(path: Path) -> None:
        """Cut off a half-written last line."""
        if path.exists():
            raw = path.read_bytes()
            os.truncate(path, raw.rfind(b"\n") + 1)

    def finish(self, unit: Unit, predictions: Sequence[Prediction]) -> None:
        """Give the unit its final file, whole and flushed to disk; the first worker to do so wins."""
        whole = self.folder / f"{unit.number:06d}.{self.worker}.whole"
        with open(whole, "w", encoding="utf-8") as file:
            file.writelines(to_line(prediction, self.plan.fingerprint) for prediction in predictions)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(whole, self.final(unit))
        whole.unlink()
        for path in self._parts(unit):
            path.unlink(missing_ok=True)

    def reopen(self, unit: Unit) -> int:
        """Make a finished unit unfinished where it failed; its answers are kept. Number of questions to ask again."""
        predictions = self.read(unit)
        kept = [prediction for prediction in predictions if not prediction.failed]
        if len(kept) < len(predictions):
            for _ in self.append(unit, kept):
                pass
            self.final(unit).unlink()
        return len(predictions) - len(kept)

    def read(self, unit: Unit) -> list[Prediction]:
        """The predictions of a finished unit, in the plan's order, each checked.

        Raises:
            DataError: a line is damaged or of another run, an example is missing, repeated or foreign, or masks do not fit the medium.
        """
        path, found = self.final(unit), {}
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    prediction = from_line(line, self.plan.fingerprint)
                    if prediction.example_id in found:
                        raise DataError(f"example {prediction.example_id!r} is in this file twice")
                    check_masks(prediction, unit)
                except DataError as error:
                    raise DataError(f"{path}:{number}: {error}; remove the file and start the run again: its unit is predicted anew") from error
                found[prediction.example_id] = prediction
        if set(found) != set(unit.example_ids):
            stray = sorted(set(found) ^ set(unit.example_ids))[:5]
            raise DataError(f"{path} holds other examples than the plan lists for it: {stray}; remove it and start the run again")
        return [found[example_id] for example_id in unit.example_ids]


def check_masks(prediction: Prediction, unit: Unit) -> None:
    """Masks must have the size and the frames of the medium as it was shown."""
    if prediction.size is not None and tuple(prediction.size) != tuple(unit.size):
        raise DataError(f"masks of {prediction.example_id!r} are {prediction.size}, the medium is {unit.size} (height, width)")
    stray = [t for track in prediction.masks for t in track if t >= unit.n_frames]
    if stray:
        raise DataError(f"masks of {prediction.example_id!r} name frame {stray[0]}, the medium has {unit.n_frames}")
