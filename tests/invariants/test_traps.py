"""The traps of the installed libraries that training must not fall into, one test each (T8, half-written checkpoints, is in test_resume),
and canaries for the private interfaces that training depends on."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests import tiny_run
from tests.tiny_run import Ranks, recipe, steps, tiny_parts
from unipixel import distributed
from unipixel.data.collate import collate
from unipixel.data.plan import OrderPlan
from unipixel.data.targets import batch_targets
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DistributedError
from unipixel.model.keys import FOURIER, POINT_MODULES, part_head
from unipixel.objectives.language import cross_entropy_sum
from unipixel.objectives.masks import MaskLossSettings, mask_loss_sums
from unipixel.train import deepspeed_private
from unipixel.train.settings import DEEPSPEED_CONFIGS, SFTArguments, engine_config

ON_CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="a trap of machines without a GPU")


# --- T1: on a CPU every process believes to be rank 0 -------------------------------------------------------------------------------

def see_world(argv: Sequence[str]) -> int:
    """Print the world that plain TrainingArguments see, and what the check says about it."""
    from transformers import TrainingArguments

    distributed.prepare()
    args = TrainingArguments(output_dir=argv[-1], report_to="none")
    try:
        distributed.check_world(args.world_size)
        code = 0
    except DistributedError as error:
        print(f"world {args.world_size}: {error}")
        code = EXIT_USER_ERROR
    distributed.barrier()  # the group does exist
    return code


def see_our_world(argv: Sequence[str]) -> int:
    distributed.prepare()
    args = SFTArguments(output_dir=argv[-1], report_to="none")
    distributed.check_world(args.world_size)
    print(f"world {args.world_size}, rank {args.process_index}")
    distributed.barrier()
    return 0


@ON_CPU
def test_t1_arguments_without_use_cpu_are_refused(tmp_path):
    run = Ranks({}, tmp_path / "theirs", target=see_world)
    codes = run.wait()  # the first rank to refuse may take the store down before the other one has connected
    assert EXIT_USER_ERROR in codes and 0 not in codes, run.logs()
    assert "world 1: the launcher started 2 processes but the trainer sees 1" in run.log(codes.index(EXIT_USER_ERROR))


def test_t1_our_arguments_see_every_rank(tmp_path):
    run = Ranks({}, tmp_path / "ours", target=see_our_world)
    run.finish()
    assert [f"world 2, rank {rank}" in run.log(rank) for rank in (0, 1)] == [True, True]


# --- T2, T3, T5: one run without compilers ------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def run_without_compiler(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    (folder / "bin").mkdir()
    settings = recipe(tiny, max_steps=3, save_steps=2, train=["seg"], lora_scope="llm", per_device_train_batch_size=2)
    return Ranks(settings, folder / "run", env={"PATH": str(folder / "bin"), "TORCH_EXTENSIONS_DIR": str(folder / "built")}).finish()


def test_t2_starts_without_compiling(run_without_compiler):
    """DeepSpeed would build ``deepspeed_shm_comm`` at its first start, which fails without g++ and ninja."""
    import deepspeed.ops

    assert len(steps(run_without_compiler)) == 3
    distributed.prepare()
    assert deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] is False


def test_t3_no_op_is_ever_built(run_without_compiler):
    """So no other ninja on PATH can cause a rebuild, and no lock of a dead build can hang a start."""
    assert not (run_without_compiler.parent / "built").exists()


def test_t5_ranks_get_whole_micro_batches_of_their_own(run_without_compiler):
    """accelerate would slice a batch of an iterable dataset over the ranks, along visual patches."""
    ranks = [steps(run_without_compiler, rank) for rank in (0, 1)]
    for mine, theirs in zip(*ranks, strict=True):
        media = [{key.split("_")[0] for key in ", ".join(line["keys"]).split(", ")} for line in (mine, theirs)]
        assert [len(m) for m in media] == [2, 2] and not media[0] & media[1], (mine, theirs)


# --- T4: restarts under torchrun ----------------------------------------------------------------------------------------------------

def test_t4_shared_store_with_restarts_is_refused(monkeypatch):
    """The behaviour itself is in test_resume (a killed worker under torchrun with the variable set)."""
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    distributed.check_restarts()
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(DistributedError, match="export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        distributed.check_restarts()
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    distributed.check_restarts()


def test_t4_torchrun_still_has_the_switch():
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous

    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE" in inspect.getsource(dynamic_rendezvous)


# --- T6: packed rows ----------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def packed(tiny):
    """(model, packed media, the same dialogues one by one, kind)."""
    model, _, encoder, groups = tiny_parts(tiny, max_turns=1, lora_dropout=0.0, num_frames=4)
    chosen = [groups.rows[i] for i, kind in enumerate(groups.kind_of) if groups.kinds[kind] == "video_masks"][:2]
    media = [encoder(groups.dataset.sample(rows[0], rows)) for rows in chosen]
    singles = []
    for rows in chosen:
        for i in range(len(rows)):
            single = encoder(groups.dataset.sample(rows[0], rows))
            single.dialogues = [single.dialogues[i]]
            singles.append(single)
    assert len(singles) == 4
    return model.eval(), media, singles


def losses(model, batch) -> tuple[Tensor, object]:
    out = model(**batch)
    sums = mask_loss_sums(out.masks, batch_targets(batch), batch["mask_valid"], MaskLossSettings())
    return cross_entropy_sum(out.logits, batch["label_ids"]) + sum(sums.values()), out


def test_t6_packed_row_equals_separate_dialogues(packed):
    model, media, singles = packed
    trained = [p for p in model.parameters() if p.requires_grad]
    loss, out = losses(model, collate(media, "video_masks"))
    together = torch.autograd.grad(loss, trained, allow_unused=True)
    parts = [losses(model, collate([single], "video_masks")) for single in singles]
    apart = torch.autograd.grad(sum(loss for loss, _ in parts), trained, allow_unused=True)

    torch.testing.assert_close(out.logits, torch.cat([o.logits for _, o in parts]), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.masks.multimasks, torch.cat([o.masks.multimasks for _, o in parts], 1), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(out.masks.scores, torch.cat([o.masks.scores for _, o in parts], 1), atol=1e-5, rtol=1e-5)
    assert [g is None for g in together] == [g is None for g in apart]
    for a, b in zip(together, apart):
        if a is not None:
            torch.testing.assert_close(a, b, atol=1e-4 * float(b.abs().max()) + 1e-6, rtol=1e-4)


def test_t6_three_rows_of_positions_leak_in_transformers_and_are_refused_here(packed):
    model, media, _ = packed
    batch = collate(media, "video_masks")
    with torch.no_grad():
        embeds = model.embed(batch)
        isolated, _ = model.hidden_states(embeds, batch["position_ids"], batch["segment_lengths"])
        raw = model.core.model.language_model(inputs_embeds=embeds, position_ids=batch["position_ids"][1:], attention_mask=None,
                                              use_cache=False).last_hidden_state[0]
        first = batch["segment_lengths"][0]
        torch.testing.assert_close(raw[:first], isolated[:first], atol=1e-4, rtol=1e-4)
        assert (raw - isolated)[first:].abs().max() > 0.05, "canary: transformers now isolates packed rows by itself"
        with pytest.raises(ValueError, match="packed rows need 4 rows of positions"):
            model.hidden_states(embeds, batch["position_ids"][1:], batch["segment_lengths"])


def test_t6_lengths_that_do_not_fill_the_row_are_refused(packed):
    model, media, _ = packed
    batch = collate(media, "video_masks")
    with torch.no_grad(), pytest.raises(ValueError, match="a packed row needs batch 1"):
        model(**batch | {"segment_lengths": batch["segment_lengths"][:-1]})


# --- T7: ranks that would call different modules ------------------------------------------------------------------------------------

def disagree(argv: Sequence[str]) -> int:
    """Rank 1 takes the other kind from the second step on."""
    kind_of = OrderPlan.next_kind

    def next_kind(self):
        kind = kind_of(self)
        other = [k for k in self.of_kind if k != kind]
        return other[0] if self.step and os.environ["RANK"] == "1" else kind

    OrderPlan.next_kind = next_kind
    return tiny_run.train(argv)


def test_t7_ranks_of_different_kinds_stop_instead_of_hanging(tiny, tmp_path):
    run = Ranks(recipe(tiny), tmp_path / "run", target=disagree)
    assert run.wait(60) == [EXIT_USER_ERROR] * 2, run.logs()
    for rank in (0, 1):
        found = re.search(r"ranks disagree about the next training step: rank 0: data order=(\d+), step=2, kind=(\d+), kind=\2; "
                          r"rank 1: data order=\1, step=2, kind=(\d+), kind=\3", run.log(rank))
        assert found and found[2] != found[3] and len(steps(run.out, rank)) == 1


def other_data(argv: Sequence[str]) -> int:
    """Rank 1 gives one source another weight."""
    describe = OrderPlan.describe

    def described(self):
        order = describe(self)
        order["sources"][0]["weight"] += int(os.environ["RANK"])
        return order

    OrderPlan.describe = described
    return tiny_run.train(argv)


def test_t7_ranks_with_different_data_stop_before_the_first_step(tiny, tmp_path):
    run = Ranks(recipe(tiny), tmp_path / "run", target=other_data)
    assert run.wait(60) == [EXIT_USER_ERROR] * 2, run.logs()
    assert "ranks disagree about the next training step: rank 0: data order=" in run.log(1)
    assert not (run.out / "steps_0.jsonl").exists()


# --- T9: half precision of the engine -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("half", ["bf16", "fp16"])
@pytest.mark.parametrize("enabled", [True, "auto"])
def test_t9_half_precision_engines_are_refused(tmp_path, half, enabled):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 0}, half: {"enabled": enabled}}))
    with pytest.raises(ConfigError, match=rf"{half}\.enabled=.*casts the whole model, SAM 2 included.*set bf16: true in the recipe"):
        engine_config(file, bf16=True)


def test_t9_shipped_engines_use_autocast():
    files = sorted(DEEPSPEED_CONFIGS.glob("*.json"))
    assert len(files) == 6
    for file in files:
        assert engine_config(file, bf16=True)["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
        assert "torch_autocast" not in engine_config(file, bf16=False)


# --- what a checkpoint holds --------------------------------------------------------------------------------------------------------

def test_frozen_weights_are_never_written(tiny, run_without_compiler):
    folder = run_without_compiler / "checkpoint-2"
    adapter, partial = load_file(folder / "adapter_model.safetensors"), load_file(folder / "pytorch_model.safetensors")
    attention = [f"base_model.model.model.language_model.layers.{layer}.self_attn.{name}_proj" for layer in range(2) for name in "qkvo"]
    assert set(adapter) == {f"{name}.lora_{side}.weight" for name in attention for side in "AB"}
    heads = {name.removeprefix("base_model.model.") for name in partial}
    assert {f"seg_head.{name}" for name in ("0.weight", "1.weight", "1.bias", "3.weight", "3.bias")} | set(FOURIER) < heads
    assert {part_head(name) for name in heads} == {"seg_head", *POINT_MODULES}, "what no base model has"
    whole = sum((tiny.base / name).stat().st_size for name in ("model.safetensors", "sam2.pt"))
    written = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.name.startswith("token"))
    assert written < whole / 6, f"{written} bytes in a checkpoint of a {whole}-byte model"


def test_frozen_seg_head_is_written_under_zero3(tiny, tmp_path):
    """It has no base model to come from, also when it does not train; ZeRO-3 must gather it for that."""
    settings = recipe(tiny, deepspeed=tiny_run.engine("zero3", tmp_path), max_steps=1, train=["embedding"], lora_scope="llm")
    out = Ranks(settings, tmp_path / "run").finish()
    partial = load_file(out / "pytorch_model.safetensors")
    assert {part_head(name.removeprefix("base_model.model.")) for name in partial} == {"seg_head", "model", *POINT_MODULES}
    assert partial["base_model.model.seg_head.1.weight"].shape == (64, 64) and partial["base_model.model.seg_head.1.weight"].abs().sum() > 0


# --- canaries -----------------------------------------------------------------------------------------------------------------------

def test_canary_private_names_of_deepspeed():
    from deepspeed.runtime.engine import DeepSpeedEngine

    assert "exclude_frozen_parameters" in inspect.signature(DeepSpeedEngine._zero3_consolidated_16bit_state_dict).parameters
    assert "exclude_frozen_parameters" in inspect.signature(DeepSpeedEngine.save_checkpoint).parameters
    assert callable(DeepSpeedEngine.zero_optimization_partition_weights)


def test_canary_checkpoint_loading_of_transformers(monkeypatch):
    """Trainer must call the module attribute that partial_resume replaces, with the keyword it overrides."""
    import transformers.trainer as hf_trainer

    assert list(inspect.signature(hf_trainer.deepspeed_load_checkpoint).parameters) == ["deepspeed_engine", "checkpoint_path", "load_module_strict"]
    assert "deepspeed_load_checkpoint(" in inspect.getsource(hf_trainer.Trainer._prepare_for_training)
    seen = []
    monkeypatch.setattr(hf_trainer, "deepspeed_load_checkpoint", lambda engine, path, load_module_strict=True: seen.append(load_module_strict))
    original = hf_trainer.deepspeed_load_checkpoint
    with deepspeed_private.partial_resume():
        hf_trainer.deepspeed_load_checkpoint(SimpleNamespace(load_universal_checkpoint=lambda: False), "path", load_module_strict=True)
    assert seen == [False] and hf_trainer.deepspeed_load_checkpoint is original


def test_canary_zero3_switch_of_transformers():
    import transformers.integrations.deepspeed as hf_deepspeed

    class Config:
        def is_zero3(self):
            return True

    config = Config()
    hf_deepspeed.set_hf_deepspeed_config(config)
    try:
        assert hf_deepspeed.is_deepspeed_zero3_enabled()
        with deepspeed_private.whole_weights():
            assert not hf_deepspeed.is_deepspeed_zero3_enabled()
        assert hf_deepspeed.is_deepspeed_zero3_enabled()
    finally:
        hf_deepspeed.unset_hf_deepspeed_config()


def test_canary_trainer_hooks():
    """Methods that GroundedTrainer overrides must still be what Trainer calls."""
    from transformers import Trainer

    assert "self.get_batch_samples(epoch_iterator, num_batches, self.args.device)" in inspect.getsource(Trainer._run_epoch)
    saving = inspect.getsource(Trainer._save_checkpoint)
    assert "self._save_optimizer_and_scheduler(output_dir)" in saving and "self.save_model(output_dir" in saving
    assert "self._save_checkpoint(model, trial)" in inspect.getsource(Trainer._maybe_log_save_evaluate)
    assert "loss_is_scaled_for_ga" in inspect.getsource(Trainer.training_step)
