"""A toy training for the tests: a model folder and shards made in seconds, and ranks as forked processes that start without imports.

``Assets`` are the files, :func:`recipe` the settings of a run over them, :class:`Ranks` the processes of one run. The ranks are forked
from a server that has imported everything (a fresh interpreter would spend 5-10 s on that); they are real processes with their own
environment, which can be killed and which talk over gloo. ``python -m tests.tiny_run`` is ``unipixel.train.sft`` that records its steps,
for starting the same under torchrun.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from unipixel.config import parse
from unipixel.data.encode import SampleEncoder
from unipixel.data.loader import Groups, MicroBatches
from unipixel.data.shards import ShardDataset, ShardWriter
from unipixel.model.adapters import set_trainable
from unipixel.model.build import build_model
from unipixel.model.tiny import TinySettings, write_tiny_base
from unipixel.sample import Example, MaskTrack, Medium, SceneObject, Turn, example_kind
from unipixel.train import sft
from unipixel.train.settings import deepspeed_config
from unipixel.train.trainer import GroundedTrainer

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT, FRAMES = 56, 42, 6
TINY = TinySettings(width=64, layers=2, heads=4, kv_heads=2, vision_width=32, vision_layers=2, vision_heads=2, sam_width=32, vocab=400)
KINDS = ("image", "image_masks", "text", "video", "video_masks")
COLOURS = {"red": (220, 40, 40), "blue": (40, 70, 220)}
PRELOAD = ["tests.tiny_run", "deepspeed.runtime.engine", "deepspeed.runtime.zero.stage3", "deepspeed.runtime.zero.muon.muon_optimizer",
           "transformers.integrations.deepspeed", "accelerate.utils.deepspeed", "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl"]
"""What the server imports before it forks; the last ones only because the first training step would import them."""
OPTIONS = ("It moves right", "It moves left", "It stays")


# --- files -----------------------------------------------------------------------------------------------------------------------

def picture(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8 -> PNG bytes."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def clip(index: int, frames: int = FRAMES) -> tuple[Medium, list[bytes], dict[str, np.ndarray]]:
    """A clip at 2 frames per second: a red and a blue box over noise. The blue one is annotated on even frames only and absent on the
    last two. Also returns the true masks (T, H, W)."""
    rng = np.random.default_rng(index)
    pixels = rng.integers(90, 160, (frames, HEIGHT, WIDTH, 3), dtype=np.uint8)
    masks = {name: np.zeros((frames, HEIGHT, WIDTH), dtype=bool) for name in COLOURS}
    for t in range(frames):
        masks["red"][t, 5 + index % 7:20 + index % 7, 4 + 4 * t:18 + 4 * t] = True
        if t < frames - 2:
            masks["blue"][t, 24:38, 40 - 3 * t:52 - 3 * t] = True
        for name, colour in COLOURS.items():
            pixels[t][masks[name][t]] = colour
    tracks = {"red": MaskTrack.from_masks(masks["red"]), "blue": MaskTrack.from_masks(masks["blue"], [t % 2 == 0 for t in range(frames)])}
    objects = {name: SceneObject(name, f"the {name} box", track) for name, track in tracks.items()}
    medium = Medium(f"clip{index}", "frames", WIDTH, HEIGHT, tuple(t / 2 for t in range(frames)), frames / 2, objects)
    return medium, [picture(p) for p in pixels], masks


def questions(index: int) -> list[Example]:
    """Two examples with masks (one evidence, one referring) and a dialogue without."""
    name = f"clip{index}"
    return [
        Example(f"{name}_q", "evidence", "What does the red box do?", OPTIONS, OPTIONS[0], ((0.5, 1.0 + index % 4 / 2),), (("red",),), "what"),
        Example(f"{name}_r", "refer", "the blue box", targets=(("blue",),), question_type="refer"),
        Example(f"{name}_c", "chat", question_type="caption", turns=(
            Turn("user", "What is in the video?"), Turn("assistant", f"A red box at height {index % 7} and a blue box."),
            Turn("user", "Which one leaves?"), Turn("assistant", "The blue one.")))]


def still(index: int, with_mask: bool) -> tuple[Medium, list[Example], list[bytes]]:
    """An image with one red box, asked for its mask or only described."""
    medium, frames, masks = clip(100 + index, frames=1)
    track = MaskTrack.from_masks(masks["red"])
    medium = Medium(f"image{index}{'m' if with_mask else ''}", "image", WIDTH, HEIGHT, (0.0,), 0.0, {"red": SceneObject("red", "the red box", track)})
    if with_mask:
        return medium, [Example(f"{medium.medium_id}_r", "refer", "the red box", targets=(("red",),), question_type="refer")], frames
    return medium, [Example(f"{medium.medium_id}_q", "evidence", "Which colour is the box?", answer=f"Red, for the {index}. time")], frames


def write_clips(folder: Path, count: int, first: int = 0) -> Path:
    """Shards of clips: kinds ``video_masks`` and ``video``, as many groups of one as of the other."""
    with ShardWriter(folder, dataset="tiny", split="train", max_bundles=4) as writer:
        for index in range(first, first + count):
            medium, frames, _ = clip(index)
            writer.write(medium, questions(index), frames)
    return folder


def write_kinds(folder: Path, count: int, kinds: Sequence[str] = KINDS) -> Path:
    """Shards of ``count`` media of each of the five kinds, or of some of them."""
    with ShardWriter(folder, dataset="kinds", split="train") as writer:
        for index in range(count):
            medium, frames, _ = clip(index)
            text = Example(f"text{index}_q", "evidence", f"How much is {index} and 1?", answer=f"{index + 1}")
            bundles = [(medium, questions(index), frames), still(index, False), still(index, True), (Medium(f"text{index}", "none"), [text], [])]
            for medium, examples, frames in bundles:
                wanted = [e for e in examples if example_kind(e, medium) in kinds]
                if wanted:
                    writer.write(medium, wanted, frames)
    return folder


@dataclass(frozen=True)
class Assets:
    """``base``: model folder. ``clips``: 8 media, kinds video and video_masks. ``kinds``: 4 groups of each of the five kinds."""

    base: Path
    clips: Path
    kinds: Path


def write_base(folder: Path, settings: TinySettings) -> Path:
    texts = [text for index in range(8) for e in questions(index) for text in (e.question, e.answer, *(t.text for t in e.turns))]
    return write_tiny_base(folder, texts * 4, settings)


def make_assets(folder: Path) -> Assets:
    clips, kinds = write_clips(folder / "clips", 8), write_kinds(folder / "kinds", 4)
    return Assets(write_base(folder / "base", TINY), clips, kinds)


def with_family(assets: Assets, family: str, folder: Path) -> Assets:
    """The same shards with a model folder of another kind of backbone."""
    return dataclasses.replace(assets, base=write_base(folder / "base", dataclasses.replace(TINY, family=family)))


def recipe(assets: Assets, **changes) -> dict:
    """Settings of a small run over the clips; ``changes`` override them."""
    return {
        "backbone": str(assets.base), "sam2_config": "sam2.yaml", "sam2_checkpoint": "sam2.pt", "sam2_image_size": 64,
        "lora_layers": "qkvo", "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "train": ["embedding", "seg", "sam2_encoder", "sam2_decoder"],
        "shards": [str(assets.clips)], "min_pixels": 784, "max_pixels": 3136, "num_frames": 3, "mask_loss_size": 16,
        "learning_rate": 1e-3, "sam2_encoder_lr": 1e-4, "sam2_decoder_lr": 1e-4, "warmup_steps": 0, "gradient_checkpointing": False,
        "max_steps": 4, "logging_steps": 1, "save_steps": 100, "deepspeed": "zero2", "panel_steps": 0, "report_to": "none", "disable_tqdm": True,
        **changes}


def engine(name: str, folder: Path) -> str:
    """A shipped DeepSpeed configuration as a file. For ZeRO-3 without looking ahead: at each module it would walk the whole toy model."""
    config = json.loads(deepspeed_config(name).read_text())
    if config["zero_optimization"]["stage"] == 3:
        config["zero_optimization"]["stage3_max_reuse_distance"] = 0
    file = folder / f"{name}.json"
    file.write_text(json.dumps(config))
    return str(file)


def flags(settings: dict, folder: Path) -> list[str]:
    """Command line of ``settings``, through a recipe file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(settings))
    return ["--config", str(file)]


def tiny_parts(assets: Assets, **changes):
    """(model, tokenizer, encoder, groups) of a recipe, with adapters, in this process."""
    known = {f for cls in sft.SETTINGS[:-1] for f in cls.__dataclass_fields__}
    settings = {k: v for k, v in recipe(assets, **changes).items() if k in known}
    argv = [part for k, v in settings.items() for part in (f"--{k}", *([str(x) for x in v] if isinstance(v, list) else [str(v)]))]
    model_settings, lora, data, frames, text, _, run = parse(sft.SETTINGS[:-1], argv)
    torch.manual_seed(0)
    model, tokenizer = build_model(model_settings)
    set_trainable(model, lora, run.train)
    encoder = SampleEncoder(tokenizer, frames, text, sam_size=model_settings.sam2_image_size, max_turns=data.max_turns,
                            max_objects=data.max_objects, layout=model.family.layout)
    return model, tokenizer, encoder, Groups(ShardDataset(data.shards), data.examples_per_medium)


# --- processes -------------------------------------------------------------------------------------------------------------------

def train(argv: Sequence[str]) -> int:
    """``unipixel.train.sft`` that also writes, per rank and micro-batch, what it trained on and the exact loss."""
    record_steps()
    return sft.main(list(argv))


def train_until_sigterm(argv: Sequence[str]) -> int:
    """:func:`train` that gets SIGTERM, rank 1 and its data worker at once, while that worker loads the second step."""
    load = MicroBatches.__getitem__

    def load_and_signal(self, request):
        if request.step == 1 and os.environ["RANK"] == "1":
            os.killpg(0, signal.SIGTERM)
        return load(self, request)

    MicroBatches.__getitem__ = load_and_signal
    return train(argv)


def record_steps() -> None:
    step = GroundedTrainer.training_step

    def training_step(self, model, inputs, *args, **kwargs):
        loss = step(self, model, inputs, *args, **kwargs)
        line = {"step": self.state.global_step, "kind": inputs["kind"], "keys": inputs["keys"], "loss": loss.item()}
        with (Path(self.args.output_dir) / f"steps_{self.args.process_index}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return loss

    GroundedTrainer.training_step = training_step


def _rank(target: Callable, argv: list[str], environment: dict[str, str], log: str) -> None:
    os.setsid()  # data workers belong to this group, and can be signalled with it
    multiprocessing.set_start_method("fork", force=True)  # for them, as in any process that nothing else has been set for
    os.environ.update(environment)
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    sys.exit(target(argv))


def free_port() -> int:
    """A port to listen on some seconds later: below those that systems give to outgoing connections, which would take it meanwhile."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Ranks:
    """The processes of one run, started at once.

    Args:
        target: a function of the command line that returns the exit code; must be importable by its name.
        out: output folder; ``rank_N.log`` hold what the processes print.
    """

    def __init__(self, settings: dict, out: Path, *, world: int = 2, target: Callable[[Sequence[str]], int] = train, env: dict | None = None):
        self.out = out
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        argv = [*flags(settings, out), "--output_dir", str(out)]
        common = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        self.processes = []
        for rank in range(world):
            environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank), **(env or {})}
            process = context.Process(target=_rank, args=(target, argv, environment, str(out / f"rank_{rank}.log")))
            process.start()
            self.processes.append(process)

    def wait(self, timeout: float = 120) -> list[int]:
        """Exit codes; fails with the logs when the processes do not end in time."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        if any(p.exitcode is None for p in self.processes):
            self.kill()
            raise AssertionError(f"the run did not end within {timeout} s:\n{self.logs()}")
        return [p.exitcode for p in self.processes]

    def finish(self, timeout: float = 120) -> Path:
        """Wait for success; returns the output folder."""
        codes = self.wait(timeout)
        assert codes == [0] * len(codes), f"exit codes {codes}:\n{self.logs()}"
        return self.out

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal every rank and everything below it."""
        for process in self.processes:
            if process.exitcode is None:
                os.killpg(process.pid, number)
        if number == signal.SIGKILL:
            for process in self.processes:
                process.join()

    def log(self, rank: int) -> str:
        return (self.out / f"rank_{rank}.log").read_text(errors="replace")

    def logs(self) -> str:
        return "\n".join(f"--- rank {rank}\n{self.log(rank)[-6000:]}" for rank in range(len(self.processes)))


def torchrun(settings: dict, out: Path, *options: str, world: int = 2) -> subprocess.Popen:
    """The same run under torchrun, in a process group of its own; output in a log file beside ``out``."""
    environment = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}", *options, "-m", "tests.tiny_run"]
    with (out.parent / f"{out.name}.log").open("ab") as log:
        return subprocess.Popen([*command, *flags(settings, out), "--output_dir", str(out)], cwd=ROOT, stdout=log, stderr=log,
                                env=environment, start_new_session=True)


def wait_for(path: Path, processes=(), timeout: float = 120) -> None:
    """Until ``path`` exists; fails when a process has ended before."""
    deadline = time.monotonic() + timeout
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear within {timeout} s"
        ended = [p for p in processes if (p.poll() if isinstance(p, subprocess.Popen) else p.exitcode) is not None]
        assert not ended or path.exists(), f"a process ended before it wrote {path}"
        time.sleep(0.02)


def steps(out: Path, rank: int = 0) -> list[dict]:
    """What :func:`record_steps` wrote for one rank, in order."""
    return [json.loads(line) for line in (out / f"steps_{rank}.jsonl").read_text().splitlines()]


def global_losses(out: Path, world: int = 2) -> list[float]:
    """Loss of each optimizer step: mean over ranks of the sums over micro-batches (each rank's share is scaled up by the ranks)."""
    totals: dict[int, float] = {}
    for rank in range(world):
        for line in steps(out, rank):
            totals[line["step"]] = totals.get(line["step"], 0.0) + line["loss"] / world
    return [totals[step] for step in sorted(totals)]


if __name__ == "__main__":
    sys.exit(train(sys.argv[1:]))
