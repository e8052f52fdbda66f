"""Counts the reference sample at true 3B size and compares with the budgets; the exit code is 1 when one is exceeded."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tabulate import tabulate

from benchmarks.counts.step import StepCounts, count_step
from unipixel.model.adapters import LoraSettings
from unipixel.model.build import ModelSettings
from unipixel.model.meta import meta_model

RESULT = Path(__file__).parents[1] / "results" / "counts.json"
TRAIN = ("embedding", "seg", "sam2_encoder", "sam2_decoder")
OBJECTS, PACK = 5, 4
TERA = 1e12


@dataclass(frozen=True)
class Case:
    """A way of training the 3B model.

    Attributes:
        lora_scope: ``llm`` is what the published recipe computes: its vision adapters get no gradient, so the tower runs forward only.
        tflops, kernels: budgets per sample; ``None``: reported only.
    """

    name: str
    lora_scope: str
    samples: int
    checkpointing: bool
    tflops: float | None = None
    kernels: int | None = None


CASES = (
    Case("as published", "llm", 1, False, tflops=48.5),
    Case("as published, packed", "llm", PACK, False, tflops=48.5, kernels=16_000),
    Case("as published, packed, checkpointing", "llm", PACK, True, tflops=53.5, kernels=16_000),
    Case("vision adapters trained, packed", "all", PACK, False, tflops=54.5, kernels=16_000),
    Case("vision adapters trained, packed, checkpointing", "all", PACK, True, tflops=64.2, kernels=16_000),
)
PUBLISHED_CODE = {"tflops": 57.2, "tflops_vision_adapters": 68.9, "kernels": 31_961}
"""The UniPixel code on the same sample, micro-batch 1, checkpointing included (7.2 TFLOP of it)."""


def exceeded(case: Case, counts: StepCounts) -> list[str]:
    """What breaks a budget, in words."""
    out = [f"{name} {value:,.1f} > {budget:,}" for name, value, budget in (
        ("TFLOP per sample", counts.flops / case.samples / TERA, case.tflops), ("kernels per sample", counts.kernels / case.samples, case.kernels))
        if budget is not None and value > budget]
    out += [f"{calls} {name} calls per micro-batch" for name, calls in (("vision tower", counts.vision_calls),
                                                                        ("SAM 2 encoder", counts.mask_encoder_calls)) if calls != 1]
    out += [f"{counts.logit_rows} rows of logits for {counts.label_rows} labels"] if counts.logit_rows != counts.label_rows else []
    out += [f"{counts.waits} waits for the device"] if counts.waits > 2 else []
    return out + ([f"{len(counts.without_gradient)} trained tensors without gradient"] if counts.without_gradient else [])


def run(case: Case) -> StepCounts:
    """Count one case at true size."""
    model, _ = meta_model(ModelSettings(model_dtype="bfloat16"), LoraSettings(lora_scope=case.lora_scope), TRAIN)
    return count_step(model, samples=case.samples, objects=OBJECTS, checkpointing=case.checkpointing)


def main() -> int:
    results = {case: run(case) for case in CASES}
    rows = [(case.name, case.samples, f"{c.flops / case.samples / TERA:.2f}", case.tflops or "", f"{c.kernels / case.samples:,.0f}",
             f"{case.kernels:,}" if case.kernels else "", c.vision_calls, c.mask_encoder_calls, f"{c.logit_rows} / {c.label_rows}", c.waits)
            for case, c in results.items()]
    print(tabulate(rows, ("3B, 8 frames, 5 objects", "samples", "TFLOP / sample", "at most", "kernels / sample", "at most", "vision calls",
                          "SAM 2 calls", "logit / label rows", "waits"), disable_numparse=True))
    print(f"published code, micro-batch 1: {PUBLISHED_CODE['tflops']} TFLOP ({PUBLISHED_CODE['tflops_vision_adapters']} with gradients in the vision "
          f"tower), {PUBLISHED_CODE['kernels']:,} kernels")
    RESULT.write_text(json.dumps({
        "cases": [dataclasses.asdict(case) | {"counts": dataclasses.asdict(c)} for case, c in results.items()], "published_code": PUBLISHED_CODE,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "sam2")}}, indent=2) + "\n")
    broken = [f"{case.name}: {line}" for case, c in results.items() for line in exceeded(case, c)]
    print("\n".join(["over budget:", *broken]) if broken else f"all budgets kept; written to {RESULT}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
