"""Referring segmentation: what each benchmark counts, over packed fixtures of the released layouts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmarks.score import ScoreArguments
from benchmarks.score import run as score
from benchmarks.tasks.refer_image import box_iou, mask_box, overlap
from benchmarks.tasks.refer_video import match_proposals
from benchmarks.truth import GroundTruth
from tests.bench_samples import all_perfect, packed, perfect, questions_of
from tests.dataset_fixtures import images, video
from tests.dataset_fixtures.common import blob
from unipixel.errors import DataError
from unipixel.infer.predictions import Prediction, write_predictions
from unipixel.metrics import jf_sequence
from unipixel.sample import encode_mask


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """source -> shards, packed once."""
    made = {}

    def get(source, write, split, *more):
        key = (source, split, more)
        if key not in made:
            made[key] = packed(source, write, tmp_path_factory.mktemp(source.replace("+", "p")), split, *more)
        return made[key]

    return get


def scored(name, folder, predictions, compat="none", **settings):
    task, protocol, _, truths = questions_of(name, folder, compat)
    return task.score(truths, predictions, protocol, bootstrap=0, **settings)


def value(result, metric):
    return result["metrics"][metric]["value"]


def test_an_expression_is_the_mean_over_all_frames(shards):
    folder = shards("mevis", video.mevis, "valid_u")
    _, _, samples, truths = questions_of("mevis", folder)
    assert [t.example_id for t in truths] == ["v1_0", "v1_1", "v1_2", "v2_0"]
    predictions = all_perfect(samples, shift=2)
    result = scored("mevis", folder, predictions)
    expected = []
    for sample in samples:
        for example in sample.examples:
            ids = [oid for target in example.targets for oid in target]
            union = np.logical_or.reduce([sample.medium.objects[i].track.decode() for i in ids]) if ids else np.zeros((4, 24, 32), bool)
            expected.append(np.mean(jf_sequence(np.roll(union, 2, axis=2), union)))
    assert value(result, "J&F") == pytest.approx(np.mean(expected)) and 0.3 < value(result, "J&F") < 1
    assert value(scored("mevis", folder, all_perfect(samples)), "J&F") == 1


def test_missing_and_failed_expressions_score_zero_and_are_listed(shards):
    folder = shards("mevis", video.mevis, "valid_u")
    _, _, samples, _ = questions_of("mevis", folder)
    predictions = all_perfect(samples)
    predictions["v1_0"] = Prediction("v1_0", "v1", "oom", error="no memory")
    del predictions["v2_0"]
    result = scored("mevis", folder, predictions)
    assert value(result, "J") == 0.5 and result["missing"] == ["v2_0"] and result["status"] == {"missing": 1, "ok": 2, "oom": 1}


def test_several_masks_are_united_unless_the_published_script_is_repeated(shards):
    folder = shards("mevis", video.mevis, "valid_u")
    _, _, samples, _ = questions_of("mevis", folder)
    predictions = all_perfect(samples)
    whole = predictions["v1_1"].masks[0]
    parts = tuple({t: entry if t % 2 == half else "" for t, entry in whole.items()} for half in (0, 1))
    predictions["v1_1"] = dataclasses.replace(predictions["v1_1"], masks=parts)
    assert value(scored("mevis", folder, predictions), "J") == 1
    assert scored("mevis", folder, predictions, "unipixel")["per_example"]["v1_1"]["j"] == 0.5


def test_revos_averages_both_groups_and_counts_false_positives(shards):
    folder = shards("revos", video.revos, "valid")
    _, _, samples, truths = questions_of("revos", folder)
    assert {t.question_type for t in truths} == {"referring", "reasoning"}
    predictions = all_perfect(samples)
    reasoning = [t.example_id for t in truths if t.question_type == "reasoning"]
    referring = [t.example_id for t in truths if t.question_type == "referring"]
    predictions[reasoning[0]] = Prediction(reasoning[0], "m", "error")
    result = scored("revos", folder, predictions)
    rows = result["per_example"]
    means = [np.mean([rows[i]["j"] for i in ids]) for ids in (referring, reasoning)]
    assert value(result, "J") == pytest.approx(np.mean(means)) and value(result, "J") != pytest.approx(np.mean([row["j"] for row in rows.values()]))
    assert result["groups"]["expression"]["reasoning"]["metrics"]["J"]["value"] == pytest.approx(means[1])
    tao = next(s for s in samples if "foreground" in s.medium.objects)
    example = tao.examples[0]
    everywhere = dataclasses.replace(perfect(tao, example), masks=({t: encode_mask(np.ones((24, 32), bool)) for t in range(4)},))
    row = scored("revos", folder, predictions | {example.example_id: everywhere})["per_example"][example.example_id]
    true, scene = tao.medium.objects[example.targets[0][0]].track.decode(), tao.medium.objects["foreground"].track.decode()
    assert row["r"] == pytest.approx(np.mean([max(0, 1 - (~true[t]).sum() / (scene[t].sum() + 1e-6)) for t in range(4)]))
    assert row["r_legacy255"] == 0 and row["a"] == pytest.approx(true.mean())
    assert rows[example.example_id]["r"] == 1 and rows[reasoning[0]]["j"] == 0


def test_revos_rounds_each_expression_in_the_published_script(shards):
    folder = shards("revos", video.revos, "valid")
    _, _, samples, _ = questions_of("revos", folder)
    predictions = all_perfect(samples, shift=3)
    ours, theirs = (scored("revos", folder, predictions, compat)["per_example"] for compat in ("none", "unipixel"))
    assert any(ours[i]["j"] != theirs[i]["j"] for i in ours)
    assert all(theirs[i]["j"] == round(100 * ours[i]["j"], 2) / 100 for i in ours)


def test_ref_davis_by_annotator(shards):
    folder = shards("ref_davis17", video.ref_davis17, "valid")
    _, _, samples, truths = questions_of("ref-davis17", folder)
    predictions = all_perfect(samples)
    ours, theirs = (scored("ref-davis17", folder, predictions, compat) for compat in ("none", "referformer"))
    assert value(ours, "J&F") == value(theirs, "J&F") == 1 and len(ours["groups"]["annotator"]) == 4
    by_voice = {}
    for truth in truths:
        by_voice.setdefault((truth.medium_id, truth.facts["voice"]), []).append(truth.example_id)
    pair = next(ids for ids in by_voice.values() if len(ids) > 1)
    a, b = pair[:2]  # two objects of one annotator: the expressions are swapped, the matching repairs it
    swapped = predictions | {a: dataclasses.replace(predictions[b], example_id=a), b: dataclasses.replace(predictions[a], example_id=b)}
    assert value(scored("ref-davis17", folder, swapped), "J&F") < 1
    assert value(scored("ref-davis17", folder, swapped, "referformer"), "J&F") > value(scored("ref-davis17", folder, swapped), "J&F")


def test_a_pixel_belongs_to_one_proposal():
    masks = [np.zeros((1, 8, 8), bool) for _ in range(2)]
    masks[0][:, :, :4], masks[1][:, :, 4:] = True, True
    truths = [GroundTruth(str(n), "v", "", size=(8, 8), evidence={0: encode_mask(m[0])}) for n, m in enumerate(masks)]
    everything = encode_mask(np.ones((8, 8), bool))
    predictions = {"0": Prediction("0", "v", size=(8, 8), masks=({0: everything},)), "1": Prediction("1", "v", size=(8, 8), masks=({0: everything},))}
    from benchmarks.tasks import get_task  # noqa: PLC0415

    scores = match_proposals(truths, predictions, get_task("ref-davis17").protocol("referformer"))
    assert sorted(j for j, _ in scores) == [0.0, 0.5], "the second proposal has no pixel left"


def test_ref_sav_reports_both_averages(shards):
    folder = shards("ref_sav", video.ref_sav, "valid")
    _, _, samples, truths = questions_of("ref-sav", folder)
    predictions = all_perfect(samples)
    long = [t.example_id for t in truths if t.question_type == "long"]
    for example_id in long:
        predictions[example_id] = Prediction(example_id, "m", "error")
    result = scored("ref-sav", folder, predictions)
    assert value(result, "J&F, mean of long and short") == 0.5
    assert value(result, "J&F") == pytest.approx(1 - len(long) / len(truths))


def test_groundmore_is_empty_outside_of_the_action(shards):
    folder = shards("groundmore", video.groundmore, "test")
    _, _, samples, truths = questions_of("groundmore", folder)
    assert all(len(s.frames) <= 20 for s in samples) and all(set(t.evidence) == set(range(len(t.frame_times))) for t in truths)
    for truth, example in zip(truths, [e for s in samples for e in s.examples]):
        start, end = example.source["action_s"] or (0, 1e9)
        assert all(entry == "" for t, entry in truth.evidence.items() if not start <= truth.frame_times[t] < end)
    assert any(entry for truth in truths for entry in truth.evidence.values()), "the fixture has masks inside of an action"
    nothing = {t.example_id: Prediction(t.example_id, t.medium_id, "no_mask") for t in truths}
    outside = [np.mean([entry == "" for entry in t.evidence.values()]) for t in truths]
    assert value(scored("groundmore", folder, nothing), "J") == pytest.approx(np.mean(outside))


# --- pictures --------------------------------------------------------------------------------------------------------------------

def test_overlap_and_boxes():
    a, b = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    a[2:8, 2:8], b[5:8, 5:11] = True, True
    assert overlap(a, b) == {"inter": 9, "union": 45, "iou": 0.2} and overlap(a & False, b & False)["iou"] == 1.0
    assert overlap(a, b, void=b) == {"inter": 0, "union": 27, "iou": 0.0}
    a[15:18, 15:18] = True  # nine pixels: too few to widen the box
    assert mask_box(a) == (2, 2, 7, 7) and mask_box(np.zeros((5, 5), bool)) is None
    assert box_iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)


def test_refcoco_sums_pixels(shards):
    folder = shards("refcoco", lambda root: images.refer(root, name="refcoco", split_by="unc", pictures="images/mscoco/images/train2014"), "train")
    _, _, samples, truths = questions_of("refcoco", folder)
    predictions = all_perfect(samples, shift=1)
    result = scored("refcoco", folder, predictions)
    rows = list(result["per_example"].values())
    assert value(result, "cIoU") == pytest.approx(sum(r["inter"] for r in rows) / sum(r["union"] for r in rows))
    assert value(result, "gIoU") == pytest.approx(np.mean([r["iou"] for r in rows])) and result["averaging"]["cIoU"] == "sums"
    nothing = scored("refcoco", folder, {truths[0].example_id: predictions[truths[0].example_id]})
    lost = nothing["per_example"][truths[-1].example_id]
    assert (lost["inter"], lost["iou"], lost["box_hit"]) == (0, 0, False) and lost["union"] > 0
    assert value(scored("refcoco", folder, all_perfect(samples)), "cIoU") == 1


def test_reasonseg_leaves_out_ignored_pixels_and_takes_one_text(shards):
    folder = shards("reason_seg", images.reason_seg, "train")
    _, _, samples, truths = questions_of("reason-seg", folder)
    assert len(truths) == len(samples)
    every = questions_of("reason-seg", folder, "unipixel")[3]
    assert len(every) > len(truths)
    sample = next(s for s in samples if s.medium.source.get("ignore"))
    example = sample.examples[0]
    void = sample.medium.objects[sample.medium.source["ignore"]].track.decode()[0]
    true = sample.medium.objects["target"].track.decode()[0]
    size = true.shape
    over = dataclasses.replace(perfect(sample, example), size=size, masks=({0: encode_mask(true | void)},))
    assert scored("reason-seg", folder, {example.example_id: over})["per_example"][example.example_id]["iou"] == 1
    legacy = scored("reason-seg", folder, {example.example_id: over}, "unipixel")["per_example"][example.example_id]["iou"]
    assert legacy == pytest.approx(true.sum() / (true | void).sum()) and legacy < 1


# --- splits whose truth only a server has ----------------------------------------------------------------------------------------

def test_a_split_without_public_masks_is_packed_to_predict(shards, tmp_path):
    folder = shards("mevis", video.mevis, "valid", "--set", "server=true")
    _, _, samples, truths = questions_of("mevis", folder)
    assert len(truths) == 4 and all(t.size is None for t in truths)
    write_predictions(tmp_path / "p.jsonl", all_perfect(samples).values())
    with pytest.raises(DataError, match="not public"):
        score(ScoreArguments(predictions=str(tmp_path / "p.jsonl"), shards=[str(folder)]), questions_of("mevis", folder)[0])


def test_resized_and_foreign_masks(shards):
    folder = shards("mevis", video.mevis, "valid_u")
    _, protocol, samples, truths = questions_of("mevis", folder)
    task = questions_of("mevis", folder)[0]
    double = blob(3).repeat(2, 0).repeat(2, 1)
    wrong = Prediction("v1_0", "v1", size=(48, 64), masks=({0: encode_mask(double)},))
    assert task.score(truths, {"v1_0": wrong}, protocol, bootstrap=0)["resized"] == 1
    with pytest.raises(DataError, match="v1_0"):
        task.score(truths, {"v1_0": wrong}, dataclasses.replace(protocol, on_size_mismatch="error"), bootstrap=0)
