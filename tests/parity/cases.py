"""Recordings on disk: ``*.safetensors`` with inputs ``in.*`` and outputs ``out.*``, their notes in ``meta.json``, shared inputs in
``common.safetensors``. What a recording is about is read from what it holds, never from its file name alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

COMMON, META, SAMPLING = "common", "meta.json", "frame_sampling.json"


@dataclass
class Case:
    """One recording.

    Attributes:
        tensors: ``in.*`` and ``out.*``.
        common: shared inputs, used where the case has none of its own.
        note: free text that came with it.
        norms: gradient norms by module name; ``None`` for a parameter without gradient.
    """

    name: str
    tensors: dict[str, Tensor]
    common: dict[str, Tensor] = field(default_factory=dict)
    note: str = ""
    norms: dict[str, float | None] = field(default_factory=dict)

    def get(self, name: str, sample: int = 0, samples: int = 1) -> Tensor | None:
        """An input of one sample: ``in.s<i>.name``, ``in.name.<i>``, or ``in.name`` when there is one sample."""
        keys = [f"in.s{sample}.{name}", *([f"in.{name}.{sample}"] if samples > 1 else []), *([f"in.{name}"] if samples == 1 else [])]
        return next((self.tensors[key] for key in keys if key in self.tensors), None)

    def shared(self, name: str) -> Tensor | None:
        """An input over all samples, from the case or from the shared ones."""
        for key in (f"in.{name}", f"out.{name}"):
            if key in self.tensors:
                return self.tensors[key]
        return next((self.common[key] for key in (f"out.{name}", f"in.{name}") if key in self.common), None)

    @property
    def outputs(self) -> dict[str, Tensor]:
        return {name.removeprefix("out."): tensor for name, tensor in self.tensors.items() if name.startswith("out.")}

    @property
    def kind(self) -> str:
        names = set(self.tensors)
        inputs = {name.split(".")[1] if not re.match(r"in\.s\d+\.", name) else name.split(".")[2] for name in names if name.startswith("in.")}
        if "input_ids" not in inputs:
            return "media"
        if "labels" in inputs:
            return "train"
        if self.continuation is not None:
            return "generate"
        if any(name.split(".")[-1] in ("masks", "mask_logits", "low_res_masks") for name in self.outputs):
            return "infer"
        shown = [name for name, present in (("ref", "point_coords" in inputs), ("mem", "refer_mask" in inputs)) if present]
        return "+".join(shown) or "forward"

    @property
    def continuation(self) -> Tensor | None:
        """(n,) ids that the reference wrote after the prompt of a generation case."""
        ids = self.tensors.get("in.input_ids")
        for name, tensor in self.outputs.items():
            if re.search(r"ids|tokens|sequence|generated", name) and not tensor.is_floating_point() and "position" not in name and tensor.ndim <= 2:
                row = tensor.reshape(-1)
                prompt = ids.reshape(-1) if ids is not None else row[:0]
                return row[len(prompt):] if len(row) > len(prompt) and row[:len(prompt)].equal(prompt) else row
        return None

    @property
    def batch_mode(self) -> bool | None:
        """Whether every frame is decoded on its own, where the case says so: by its frame indices, its note or its name."""
        index = next((t for name, t in self.tensors.items() if "label_obj_to_frame_idx" in name), None)
        if index is not None:
            return index.shape[0] == 1 and index.shape[1] > 1 and int(index[..., 1].max()) > 0
        said = re.search(r"sam2_batch_mode\s*=\s*(true|false)", self.note, re.IGNORECASE)
        if said:
            return said[1].lower() == "true"
        return True if "batch" in self.name.split("_") else None

    @property
    def checkpoint(self) -> str:
        """Folder of the fixture whose weights it was recorded with."""
        said = re.search(r"checkpoint (\w+)/", self.note)
        if said:
            return said[1]
        return "full_untied" if "untied" in self.name.split("_") else "full"


def read_cases(folder: Path, shared: Path) -> Iterator[Case]:
    """Recordings of ``folder`` by name; shared inputs come from it, or from ``shared`` where it has none."""
    common = next((load_file(place / f"{COMMON}.safetensors") for place in (folder, shared) if (place / f"{COMMON}.safetensors").is_file()), {})
    meta = json.loads((folder / META).read_text()) if (folder / META).is_file() else {}
    for file in sorted(folder.glob("*.safetensors")):
        norms = file.with_name(f"{file.stem}.grad_norms.json")
        yield Case(file.stem, load_file(file), common, meta.get(file.stem, {}).get("note", ""),
                   json.loads(norms.read_text()) if norms.is_file() else {})
