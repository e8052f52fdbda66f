"""Values of the official davis2017-evaluation code and of two public temporal evaluators, to 1e-6 and mostly to the bit."""

import gzip
import itertools
import json

import numpy as np
import pytest

from unipixel.metrics import jf, jf_rle, jf_sequence, jf_sequence_rle, sequence_statistics, temporal_iop, temporal_iou
from unipixel.metrics.rle import decode


@pytest.fixture(scope="module")
def golden(shared_data):
    folder = shared_data / "golden"
    if not folder.is_dir():
        pytest.skip(f"no golden values in {shared_data}")

    def load(name):
        opener = gzip.open if name.endswith(".gz") else open
        with opener(folder / name) as file:
            return json.load(file)

    return load


def test_edge_cases(golden):
    cases = golden("edge_cases.json.gz")["cases"]
    assert len(cases) >= 500
    for case in cases:
        size, want = tuple(case["size"]), (case["J"], case["F"])
        assert jf_rle(case["pred"], case["gt"], size, case["bound_th"], case["void"]) == want, case["name"]
        pred, gt, void = (None if case[side] is None else decode(case[side], size) for side in ("pred", "gt", "void"))
        assert jf(pred, gt, case["bound_th"], void) == want, case["name"]


def test_workload(golden):
    n_frames = 0
    for video in golden("workload.json.gz")["videos"]:
        for thing in video["objects"]:
            js, fs = jf_sequence_rle(thing["pred"], thing["gt"], tuple(video["size"]))
            assert js.tolist() == thing["J"] and fs.tolist() == thing["F"], (video["name"], thing["id"])
            for values, name in ((js, "J"), (fs, "F")):
                assert sequence_statistics(values[1:-1]) == pytest.approx(thing["semisup_MRD"][name], abs=1e-12)
            n_frames += len(js)
    assert n_frames == 480


def test_statistics(golden):
    for case in golden("statistics.json")["cases"]:
        mean, recall, decay = sequence_statistics(case["values"])
        assert (mean, recall) == pytest.approx((case["M"], case["R"]), abs=1e-12)
        if case["D"] is None:
            assert len(case["values"]) >= 256 and np.isfinite(decay)
        else:
            assert decay == pytest.approx(case["D"], abs=1e-12)


def test_unsupervised_with_void(golden):
    """Proposals are matched to objects so that the time mean of (J + F) / 2 is best; void pixels count on neither side."""
    for video in golden("unsupervised.json.gz")["videos"]:
        size = tuple(video["size"])
        gt, pred = ([np.stack([decode(c, size) for c in frames]) for frames in video[side]] for side in ("gt", "pred"))
        void = np.stack([decode(c, size) for c in video["void"]])
        scores = np.array([[jf_sequence(p, g, void=void) for g in gt] for p in pred])
        quality = scores.mean(axis=(2, 3))
        best = max(itertools.permutations(range(len(pred)), len(gt)), key=lambda chosen: sum(quality[p, g] for g, p in enumerate(chosen)))
        for name, axis in (("J", 0), ("F", 1)):
            rows = sorted(scores[p, g, axis].tolist() for g, p in enumerate(best))
            assert rows == sorted(video[name]), (video["name"], name)


def test_temporal_pairs(golden):
    """Bit-equal, but for a prediction of no length, which has no overlap here (NExT-GQA counts a point inside the truth as 1)."""
    pairs = golden("temporal.json")["pairs"]
    points = 0
    for pair in pairs:
        iou, iop = temporal_iou([pair["pred"]], [pair["gt"]]), temporal_iop([pair["pred"]], [pair["gt"]])
        if pair["pred"][0] == pair["pred"][1]:
            points += 1
            assert iou == iop == 0
        else:
            assert (iou, iou, iop) == (pair["iou"], pair["nextgqa_iou"], pair["nextgqa_iop"])
    assert 0 < points < len(pairs) / 2


def test_temporal_best_of_several(golden):
    for sample in golden("temporal.json")["multi"]:
        assert max(temporal_iou([sample["pred"]], [span]) for span in sample["gt"]) == sample["iou"]
        assert max(temporal_iop([sample["pred"]], [span]) for span in sample["gt"]) == sample["iop"]
