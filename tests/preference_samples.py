"""Preference pairs over the toy clips, and tiny models over them, for the tests of preference training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MethodType

import torch

from tests.tiny_run import clip, questions, recipe, record_steps, tiny_parts
from unipixel.data.encode import SampleEncoder
from unipixel.data.pair_groups import PairGroups
from unipixel.data.pairs import PairEncoder, PairSettings
from unipixel.data.shards import ShardDataset, ShardWriter
from unipixel.model.reference import is_reference
from unipixel.sample import Example, Medium, PreferencePair
from unipixel.train import dpo
from unipixel.train.preference_trainer import PreferenceTrainer

MODES = ("spatial", "temporal", "cross_frame")
TEXTS = {"spatial": ("The red box is above the blue one.", "The blue box is above the red one."),
         "temporal": ("It moves right, then the blue one leaves.", "The blue one leaves before it moves."),
         "cross_frame": ("It is the same red box.", "There are two red boxes, and the second one is new.")}


def pair(name: str, mode: str, answer: str = "") -> PreferencePair:
    chosen, rejected = TEXTS[mode]
    return PreferencePair(f"{name}_{mode}", chosen + answer, rejected + answer, mode)


def example(index: int, count: int = 3, answer: str = "") -> Example:
    """An open question with up to three pairs, one per mode."""
    name = f"clip{index}"
    return Example(f"{name}_p", "evidence", "What does the red box do?", answer="It moves right",
                   pairs=tuple(pair(name, mode, answer) for mode in MODES[:count]))


def write_pairs(folder: Path, count: int, *, text: bool = False, pairs: int = 3, answer: str = "") -> Path:
    """Shards of ``count`` clips with ``pairs`` pairs each; ``text``: and one sample without a video."""
    with ShardWriter(folder, dataset="tinypairs", split="train", max_bundles=4) as writer:
        for index in range(count):
            medium, frames, _ = clip(index)
            writer.write(medium, [example(index, pairs, answer), questions(index)[0]], frames)
        if text:
            writer.write(Medium("words", "none"), [replace(example(99, pairs, answer), example_id="words_p")], [])
    return folder


def pair_parts(assets, folder: Path, settings: PairSettings | None = None, **changes):
    """(model in float64, encoder, groups), the adapters no longer zero; LoRA in the language model only unless ``changes`` say more."""
    changes = {"train": ["seg"], "lora_scope": "llm", "paraphrase": False, "frame_sampling": "uniform", "shards": [str(folder)], **changes}
    model, tokenizer, encoder, _ = tiny_parts(assets, **changes)
    model.seg_head.requires_grad_(False)  # a command line cannot say that nothing but the adapter trains
    groups = PairGroups(ShardDataset([folder]))
    stir(model)
    exact_norms(model)
    return model.double(), as_pairs(encoder, settings or PairSettings()), groups


def as_pairs(encoder: SampleEncoder, settings: PairSettings) -> PairEncoder:
    return PairEncoder(encoder.tokenizer, encoder.frame_settings, encoder.text, sam_size=encoder.sam_size, layout=encoder.layout,
                       pairs=settings)


def stir(model, seed: int = 1) -> None:
    """Random values for the halves of the adapters that start at zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".lora_B.default." in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def exact_norms(model) -> None:
    """transformers computes root mean squares in float32, whatever the weights are; gradients would be rounded there."""
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    for module in model.core.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = MethodType(forward, module)


def pair_recipe(assets, folder: Path, **changes) -> dict:
    """Settings of a small preference run; ``changes`` override them."""
    settings = recipe(assets, **{"shards": [str(folder)], "train": [], "lora_scope": "llm", "frame_sampling": "uniform", "paraphrase": False,
                                 "beta": 0.3, "learning_rate": 3e-3, "lr_scheduler_type": "constant", **changes})
    return {name: value for name, value in settings.items() if name not in ("mask_loss_size", "sam2_encoder_lr", "sam2_decoder_lr", "panel_steps")}


def train_pairs(argv: Sequence[str]) -> int:
    """``unipixel.train.dpo`` that also writes its steps, as ``tests.tiny_run.train`` does, and every record of its log."""
    record_steps()
    log = PreferenceTrainer.log

    def logged(self, logs, *args, **kwargs):
        log(self, logs, *args, **kwargs)
        if self.args.process_index == 0:
            with (Path(self.args.output_dir) / "log.jsonl").open("a") as file:
                file.write(json.dumps(self.state.log_history[-1]) + "\n")

    PreferenceTrainer.log = logged
    return dpo.main(list(argv))


def records(out: Path) -> list[dict]:
    """Records of the training steps; a resumed run appends to those of the first one."""
    return [line for line in map(json.loads, (out / "log.jsonl").read_text().splitlines()) if "loss" in line]


def train_pairs_and_watch(argv: Sequence[str]) -> int:
    """:func:`train_pairs` of one process that also writes whether the reference's tensors stayed what they were and had gradients."""
    train = PreferenceTrainer.train

    def watched(self, **kwargs):
        frozen = {name: p for name, p in self.model.named_parameters() if is_reference(name)}
        before = {name: p.detach().clone() for name, p in frozen.items()}
        policy = {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}
        result = train(self, **kwargs)
        report = {"tensors": len(frozen), "unequal": [name for name, p in frozen.items() if not p.equal(before[name])],
                  "gradients": [name for name, p in self.model.named_parameters() if is_reference(name) and (p.grad is not None or p.requires_grad)],
                  "policy_moved": sum(not p.equal(policy[name]) for name, p in self.model.named_parameters() if name in policy) / len(policy)}
        (Path(self.args.output_dir) / "watched.json").write_text(json.dumps(report))
        return result

    PreferenceTrainer.train = watched
    return train_pairs(argv)
