"""One packed row: every index the model uses points at the right token, feature, object and frame."""

from __future__ import annotations

import pytest
import torch

from tests.evidence_samples import painted
from tests.tiny_run import tiny_parts
from unipixel.data.collate import collate
from unipixel.data.targets import batch_targets


@pytest.fixture(scope="module")
def media(tiny):
    """(tokenizer, two encoded media with masks, one without)."""
    _, tokenizer, encoder, groups = tiny_parts(tiny, deepspeed="", max_turns=1)
    by_kind = {kind: [groups.rows[i] for i, k in enumerate(groups.kind_of) if groups.kinds[k] == kind] for kind in groups.kinds}

    def load(kind, n):
        rows = by_kind[kind][n]
        return encoder(groups.dataset.sample(rows[0], rows))

    return tokenizer, [load("video_masks", 0), load("video_masks", 1)], load("video", 2)


def test_row_is_all_dialogues_one_after_the_other(media):
    _, encoded, _ = media
    batch = collate(encoded, "video_masks")
    dialogues = [d for m in encoded for d in m.dialogues]
    assert batch["segment_lengths"] == tuple(len(d.ids) for d in dialogues) and len(dialogues) == 4
    assert batch["input_ids"].equal(torch.cat([d.ids for d in dialogues])[None])
    assert batch["position_ids"].shape == (4, 1, sum(batch["segment_lengths"]))
    starts = (batch["position_ids"][0, 0] == 0).nonzero().flatten().tolist()
    assert starts == [sum(batch["segment_lengths"][:i]) for i in range(4)]
    assert batch["keys"] == [d.key for d in dialogues]


def test_label_rows_predict_their_labels(media):
    tokenizer, encoded, _ = media
    batch = collate(encoded, "video_masks")
    ids = batch["input_ids"][0]
    assert batch["label_ids"].equal(ids[batch["label_rows"] + 1])
    assert tokenizer.decode(batch["label_ids"]).count("<|im_end|>") == 4
    starts = {sum(batch["segment_lengths"][:i]) - 1 for i in range(5)}
    assert not starts & set(batch["label_rows"].tolist()), "no label crosses into the next dialogue"


def test_object_rows_predict_seg_tokens(media):
    """Row p - 1 for ``<|seg|>`` at p, the video of each object, its masks and frames."""
    tokenizer, encoded, _ = media
    batch = collate(encoded, "video_masks")
    seg = tokenizer.convert_tokens_to_ids("<|seg|>")
    assert (batch["input_ids"][0][batch["object_rows"] + 1] == seg).all()
    assert len(batch["object_rows"]) == int((batch["input_ids"] == seg).sum()) == 4
    assert batch["object_video"].tolist() == [0, 0, 1, 1]
    targets = batch_targets(batch)
    assert targets.shape == (3, 4, 64, 64) and batch["mask_valid"].shape == (3, 4)
    for o, (medium, dialogue) in enumerate((m, d) for m in encoded for d in m.dialogues):
        assert targets[:, o].equal(painted(dialogue, medium, 64)[0]) and batch["mask_valid"][:, o].equal(dialogue.annotated[0])
    assert batch["sam_frames"].equal(torch.cat([m.frames for m in encoded]))


def test_visual_rows_and_features(media):
    """Both dialogues of a medium take the same features, each in its own rows."""
    tokenizer, encoded, _ = media
    batch = collate(encoded, "video_masks")
    pad = tokenizer.convert_tokens_to_ids("<|video_pad|>")
    assert batch["visual_rows"].tolist() == (batch["input_ids"][0] == pad).nonzero().flatten().tolist()
    count = encoded[0].visual_tokens
    assert batch["visual_index"].tolist() == [*range(count), *range(count), *range(count, 2 * count), *range(count, 2 * count)]
    assert len(batch["patches"]) == 4 * 2 * count and batch["grids"] == tuple(m.grid for m in encoded)


def test_kind_decides_about_masks(media):
    _, encoded, chat = media
    batch = collate([chat, encoded[0]], "video")
    assert not {"sam_frames", "object_rows", "mask_runs", "mask_valid", "object_video"} & set(batch)
    assert batch["visual_index"].max() == 2 * chat.visual_tokens - 1


def test_text_has_no_visual_keys(tiny):
    _, _, encoder, groups = tiny_parts(tiny, deepspeed="", shards=[str(tiny.kinds)])
    rows = next(groups.rows[i] for i, kind in enumerate(groups.kind_of) if groups.kinds[kind] == "text")
    batch = collate([encoder(groups.dataset.sample(rows[0], rows))], "text")
    assert not {"patches", "grids", "visual_rows", "visual_index"} & set(batch)
