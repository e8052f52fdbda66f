"""The reference's recorded runs on its own weights, replayed: every case, padded batches, adapters, generation; and that a miss is seen."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.parity.__main__ import main
from tests.parity.batch import pack
from tests.parity.cases import Case, read_cases
from tests.parity.media import replay_sampling
from tests.parity.replay import FULL, Replay

CASES = ("common", "fwd_image", "fwd_video", "fwd_video_spg_frac", "fwd_video_untied", "infer_image", "infer_prop", "mask_preproc", "mem_forward",
         "ref_forward", "train_batch", "train_mem", "train_prop")


@pytest.fixture(scope="module")
def fixture(shared_data):
    return shared_data / "fixtures" / "unipixel_tiny"


@pytest.fixture(scope="module")
def replay(fixture) -> Replay:
    return Replay(fixture)


@pytest.fixture(scope="module")
def cases(fixture) -> dict[str, Case]:
    return {case.name: case for case in read_cases(fixture / "cases", fixture / "cases")}


@pytest.mark.parametrize("name", CASES)
def test_recorded_case(replay, cases, name):
    result = replay(cases[name])
    assert result.ok, [q for q in result.quantities if not q.ok]


def test_every_recorded_case_is_replayed(cases, fixture):
    assert tuple(sorted(cases)) == CASES
    assert {case.kind for case in cases.values()} == {"media", "forward", "ref", "mem", "train", "infer"}
    assert replay_sampling(fixture / "cases" / "frame_sampling.json").ok


@pytest.mark.parametrize("name", ["ref_forward", "mem_forward", "infer_prop"])
def test_adapters_over_the_base_are_the_full_checkpoint(replay, cases, name):
    case = cases[name]
    result = replay(Case(name, case.tensors, case.common, "checkpoint adapter/"))
    assert result.ok and replay.models["adapter"] is not replay.models[FULL], [q for q in result.quantities if not q.ok]


def test_two_recordings_as_one_padded_batch(replay, cases):
    """Right-padded to the longer one: neither sees the other, and nothing is read from the padding."""
    short, long = cases["fwd_video"], cases["infer_prop"]
    ids = [case.tensors["in.input_ids"][0] for case in (short, long)]
    width, logits = max(map(len, ids)), [case.tensors["out.logits"][0] for case in (short, long)]
    padded = torch.stack([torch.nn.functional.pad(row, (0, width - len(row)), value=300) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    recorded = torch.stack([torch.nn.functional.pad(rows, (0, 0, 0, width - len(rows)), value=99.0) for rows in logits])
    both = Case("batch", {"in.input_ids": padded, "in.attention_mask": mask, "out.logits": recorded}, short.common)
    result = replay(both)
    assert [q.name for q in result.quantities] == ["logits"] and result.ok, result
    packed = pack(both, replay.ids)
    assert packed.batch["segment_lengths"] == (133, 137) and (packed.position_ids[:, 0, 133:] == 1).all()


def test_generation_with_masks(replay, cases):
    """Greedy tokens from a loop without a cache; the masks of the prompt's ``<|seg|>`` are those of the recorded inference."""
    case, model = cases["infer_prop"], replay.model(FULL)
    ids, expected = case.tensors["in.input_ids"], []
    with torch.no_grad():
        for _ in range(6):
            step = pack(Case("step", {"in.input_ids": torch.cat([ids, torch.tensor([expected], dtype=torch.long)], 1)}, case.common), replay.ids)
            after, _ = model.eval().hidden_states(model.embed(step.batch), step.batch["position_ids"], step.batch["segment_lengths"])
            expected.append(int(model.core.lm_head(after[-1]).argmax()))
    assert len(set(expected)) > 1 and replay.ids.seg not in expected
    tensors = {"in.input_ids": ids, "out.generated_ids": torch.tensor([expected]), "out.masks": case.tensors["out.masks"]}
    generation = Case("written", tensors, case.common)
    assert generation.kind == "generate"
    result = replay(generation)
    assert {"generated_ids", "masks"} <= {q.name for q in result.quantities} and result.ok, result
    whole = Case("whole", tensors | {"out.generated_ids": torch.cat([ids, torch.tensor([expected])], 1)}, case.common)
    assert whole.continuation.tolist() == expected
    expected[-1] += 1
    assert not replay(Case("wrong", tensors | {"out.generated_ids": torch.tensor([expected])}, case.common)).ok


def test_missing_gradients_are_a_switch(replay, cases, monkeypatch):
    """By default everything learns in propagation; the recording agrees only with the switch."""
    right = Replay(replay.fixture)
    load = right.load.__globals__["load_model"]
    monkeypatch.setitem(right.load.__globals__, "load_model", lambda *a, **o: load(*a, **o | {"reference_rope_grad": False}))
    result = right(cases["train_prop"])
    missed = {q.name for q in result.quantities if not q.ok}
    assert "grad.sam2.maskmem_tpos_enc" in missed
    assert all(name.startswith(("grad.", "norm")) for name in missed), "the forward pass is the same"
    assert right(cases["train_batch"]).ok, "batch mode uses no memory"


@pytest.mark.parametrize(("change", "missed"), [
    ({"out.logits": 0.1}, ["fwd_video"]), ({}, []),
])
def test_command_reports_a_miss(fixture, tmp_path, capsys, change, missed):
    """A folder of other cases, whose shared inputs are the fixture's; the kind does not depend on the name."""
    tensors = load_file(fixture / "cases" / "fwd_video.safetensors")
    save_file({name: t + change.get(name, 0) for name, t in tensors.items()}, tmp_path / "fwd_video.safetensors")
    save_file(load_file(fixture / "cases" / "ref_forward.safetensors"), tmp_path / "renamed.safetensors")
    assert main(["--fixture", str(fixture), "--cases", str(tmp_path)]) == bool(missed)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok    renamed") and " ref " in line for line in lines)
    assert any(line.startswith("MISS  fwd_video") for line in lines) == bool(missed)
    assert lines[-1].startswith(f"{2 - len(missed)} of 2 cases agree")
