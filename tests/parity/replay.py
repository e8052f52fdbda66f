"""Running this package's model on a recording and comparing what it records of embeddings, states, logits and generated tokens.

The model's own parts are used (``embed``, ``hidden_states``, ``seg_tokens``, SAM 2's unroll, the losses, ``continue_rows``); the only
thing put aside is the normalisation of pixels, which recorded inputs have behind them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch

from tests.parity.batch import Ids, Packed, pack
from tests.parity.cases import Case
from tests.parity.media import replay_media
from tests.parity.report import EMBEDDINGS, LOGITS, Result
from tests.parity.segmentation import replay_masks
from tests.parity.training import replay_training
from unipixel.infer.generate import continue_rows
from unipixel.model.build import load_model
from unipixel.model.grounded import GroundedVLM
from unipixel.model.prompts import window_order, window_side
from unipixel.model.weights import is_full, read_file, read_full, write_full

NETWORK, FULL, HEAD_ONLY = "sam2_tiny_official.yaml", "full", "lm_head_only.safetensors"


class Replay:
    """The checkpoints of a fixture, loaded once each, and the cases run on them."""

    def __init__(self, fixture: Path):
        self.fixture = fixture
        self.models: dict[str, GroundedVLM] = {}
        self.ids = Ids.of(json.loads((fixture / FULL / "config.json").read_text()))

    def __call__(self, case: Case) -> Result:
        result = Result(case.name, case.kind)
        if case.kind == "media":
            replay_media(case, result)
            return result
        packed = pack(case, self.ids)
        compare_positions(case, packed, result)
        if packed.missing:
            result.left |= {name: packed.missing for name in case.outputs if name not in ("position_ids", "rope_deltas")}
            return result
        model = self.model(case.checkpoint)
        if case.kind == "train":
            replay_training(model.train(), case, packed, result)
        else:
            states = replay_forward(model.eval(), case, packed, result)
            if case.kind == "generate":
                states[0] = torch.cat([states[0], self.generated_states(model, case, packed, result)])
            if case.kind in ("infer", "generate"):
                replay_masks(model, case, states, result)
        compared = {name for q in result.quantities for name in (q.name, q.name.partition(" ")[0])}
        result.left |= {name: "nothing here computes it" for name in case.outputs if name not in compared and name not in result.left}
        return result

    def model(self, checkpoint: str) -> GroundedVLM:
        if checkpoint not in self.models:
            self.models[checkpoint] = self.load(self.fixture / checkpoint)
        return self.models[checkpoint]

    def load(self, folder: Path) -> GroundedVLM:
        """A checkpoint of the fixture: full, adapters, or an output head over the full one."""
        options = {"sam2_config": str(self.fixture / NETWORK), "dtype": "float32", "reference_rope_grad": True}
        if (folder / HEAD_ONLY).is_file():
            with tempfile.TemporaryDirectory() as whole:
                shutil.copy(folder / "config.json", whole)
                write_full(read_full(self.fixture / FULL) | read_file(folder / HEAD_ONLY), Path(whole))
                model = load_model(whole, **options)
        else:
            model = load_model(folder, fourier_from="" if is_full(folder) else str(self.fixture / FULL), **options)
        model.normalizer = SimpleNamespace(patches=lambda x: x, frames=lambda x: x)
        return model

    def generated_states(self, model: GroundedVLM, case: Case, packed: Packed, result: Result) -> torch.Tensor:
        """Compares the greedy continuation token by token; returns the states that predicted its ``<|seg|>``."""
        expected, batch = case.continuation, packed.batch
        settings = self.fixture / case.checkpoint / "generation_config.json"
        ends = json.loads(settings.read_text())["eos_token_id"] if settings.is_file() else self.ids.video
        with torch.no_grad():
            embeds = model.embed(batch)
        new, states = continue_rows(model, embeds, torch.ones_like(batch["input_ids"]), batch["position_ids"], max_new_tokens=len(expected),
                                    eos=ends, pad=0)
        name = next(name for name, tensor in case.outputs.items() if tensor.reshape(-1)[-len(expected):].equal(expected))
        result.close(name, new[0], expected, 0)
        return states[0][new[0] == self.ids.seg].clone()


def compare_positions(case: Case, packed: Packed, result: Result) -> None:
    outputs = case.outputs
    if "position_ids" in outputs:
        result.close("position_ids", packed.position_ids, outputs["position_ids"], 0)
    if "rope_deltas" in outputs:
        longest = packed.kept.shape[1]
        deltas = [packed.position_ids[:, b, packed.kept[b]].max() + 1 - longest for b in range(len(packed.kept))]
        result.close("rope_deltas", torch.stack(deltas)[:, None], outputs["rope_deltas"].reshape(-1, 1), 0)


@torch.no_grad()
def replay_forward(model: GroundedVLM, case: Case, packed: Packed, result: Result) -> list[torch.Tensor]:
    """Compares what the case recorded of embeddings, states and logits; returns per sample the states that predict its ``<|seg|>``."""
    outputs, batch = case.outputs, packed.batch
    embeds = model.embed(batch)
    after, before = model.hidden_states(embeds, batch["position_ids"], batch["segment_lengths"])
    if "patches" in batch:
        features, state, _ = model.encode_vision(batch["patches"], batch["grids"])
        for name, mine in (("visual_embeds", features), ("merger_mlp_state", state)):
            if name in outputs:
                result.close(name, mine, outputs[name], EMBEDDINGS)
    if "inputs_embeds" in outputs:
        result.close("inputs_embeds", embeds[0], outputs["inputs_embeds"][packed.kept], EMBEDDINGS)
    if "prenorm_hidden" in outputs:
        wanted = outputs["prenorm_hidden"][packed.kept]  # not normalised: hundreds where embeddings are about one
        result.close("prenorm_hidden", before, wanted, EMBEDDINGS * max(1.0, wanted.abs().max().item()))
    if "window_index" in outputs:
        result.close("window_index", window_order(batch["grids"] // torch.tensor([1, 2, 2]), window_side(model.config)), outputs["window_index"], 0)
    if "logits" in outputs and outputs["logits"].shape[:2] == packed.kept.shape:
        result.close("logits", model.core.lm_head(after), outputs["logits"][packed.kept], LOGITS)
    for name, rows in (("ref_emb", "ref_rows"), ("mem_emb", "mem_rows")):
        if name in outputs:
            result.close(name, embeds[0][batch[rows]], outputs[name].reshape(-1, embeds.shape[-1]), EMBEDDINGS)
    if "tem" in outputs:
        points = model.point_prompts
        times = points.tem_proj(points.tem_pe(batch["ref_times"]) + points.tem_emb.weight)
        result.close("tem", times, outputs["tem"].reshape(times.shape), EMBEDDINGS)
    return [before[rows - 1] for rows in packed.seg]
