"""Losses: TRL's arithmetic on given scores against formulas and recorded numbers, weights of pairs, settings that are refused."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

import launch
from unipixel.config import parse, read_recipe
from unipixel.errors import ConfigError
from unipixel.model.prefix import TokenScores
from unipixel.objectives.preference import pair_weights, reply_mask, reply_rows
from unipixel.sample import FAILURE_MODES
from unipixel.train import dpo
from unipixel.train.preference_settings import LOSSES, WITHOUT_EFFECT, PairRunSettings, PreferenceArguments, mode_weights
from unipixel.train.preference_trainer import PreferenceTrainer
from unipixel.train.trl_private import PreferenceLoss


def arguments(**changes) -> PreferenceArguments:
    return PreferenceArguments(report_to="none", **{"beta": 0.3, **changes})


def scorer(cls=PreferenceLoss, **changes):
    """The arithmetic alone, without a trainer around it."""
    loss = cls.__new__(cls)
    loss.args = arguments(**changes)
    loss.take_settings(loss.args)
    loss.accelerator, loss.model = Accelerator(cpu=True), torch.nn.Module()
    loss.model.is_gradient_checkpointing = False
    return loss


def scores(values) -> TokenScores:
    values = torch.as_tensor(values, dtype=torch.float64)
    zeros = torch.zeros_like(values)
    return TokenScores(values, zeros, zeros, zeros.bool(), torch.full_like(values, -0.5))


TOY = scores([-0.5, -0.5, -1, -1, -2]), torch.tensor([-1.0, -1, -1, -1, -1], dtype=torch.float64), [(3, 2)]
"""Chosen policy -.5, -.5, -1 against -1, -1, -1; rejected -1, -2 against -1, -1."""


def test_t3_recorded_numbers():
    assert abs(scorer().trl_loss(*TOY).item() - 0.437488) < 1e-6
    assert abs(scorer(loss_type=["sigmoid_norm"]).trl_loss(*TOY).item() - 0.575939) < 1e-6
    reference = torch.tensor([-2.0, -1.0], dtype=torch.float64)
    for beta, expected in ((0.3, 0.554355), (0.1, 0.644397)):
        assert abs(scorer(beta=beta).trl_loss(scores([-1.0, -1.0]), reference, [(1, 1)]).item() - expected) < 1e-6


@pytest.mark.parametrize("loss", ["sigmoid", "sigmoid_norm", "robust", "aot"])
def test_equal_models_give_ln_2(loss):
    reference = torch.tensor([-0.3, -2.0, -1.0], dtype=torch.float64)
    value = scorer(loss_type=[loss], per_device_train_batch_size=2).trl_loss(scores(reference), reference, [(1, 2)])
    assert abs(value.item() - math.log(2)) < 1e-12


def test_gradient_is_the_difference_quotient():
    policy, reference, counts = scores(TOY[0].log_probs.clone().requires_grad_()), TOY[1], TOY[2]
    gradient, = torch.autograd.grad(scorer().trl_loss(policy, reference, counts), policy.log_probs)
    for i in range(5):
        step = torch.zeros(5, dtype=torch.float64).index_fill(0, torch.tensor(i), 1e-5)
        up, down = (scorer().trl_loss(scores(policy.log_probs.detach() + s), reference, counts) for s in (step, -step))
        assert abs(gradient[i].item() - ((up - down) / 2e-5).item()) < 1e-9
    assert not reference.requires_grad


CHOSEN, REJECTED, X = 1.0, -1.0, 0.6
"""Log-ratios of the toy pair, and beta times their difference."""


@pytest.mark.parametrize(("loss", "expected"), [
    ("hinge", 1 - X), ("ipo", (1 / 3 + 1 / 2 - 1 / 0.6) ** 2), ("sppo_hard", (1 - 0.5 / 0.3) ** 2 + (-1 + 0.5 / 0.3) ** 2),
    ("nca_pair", -math.log(1 / (1 + math.exp(-0.3))) + 0.5 * math.log(1 + math.exp(0.3)) + 0.5 * math.log(1 + math.exp(-0.3))),
    ("bco_pair", 2 * math.log(1 + math.exp(-0.3))), ("apo_zero", 2 / (1 + math.exp(0.3))),
    ("apo_down", 1 / (1 + math.exp(-0.3)) + 1 / (1 + math.exp(X))), ("sft", 2 / 3),
    ("discopop", None), ("exo_pair", None), ("robust", None),
])
def test_other_losses(loss, expected):
    smoothing = {"exo_pair": 0.1, "robust": 0.1}.get(loss, 0.0)
    value = scorer(loss_type=[loss], label_smoothing=smoothing).trl_loss(*TOY).item()
    down = math.log(1 + math.exp(-X))
    if loss == "robust":
        expected = (0.9 * down - 0.1 * (down + X)) / 0.8
    if loss == "exo_pair":
        q = 1 / (1 + math.exp(-X))
        expected = q * (math.log(q) - math.log(0.9)) + (1 - q) * (math.log(1 - q) - math.log(0.1))
    if loss == "discopop":
        mix = 1 / (1 + math.exp(-X / 0.05))
        expected = down * (1 - mix) + math.exp(-X) * mix
    assert abs(value - expected) < 1e-6


def test_weighted_sum_of_losses():
    both = scorer(loss_type=["sigmoid", "sft"], loss_weights=[0.5, 2.0]).trl_loss(*TOY).item()
    assert abs(both - (0.5 * 0.437488 + 2 * 2 / 3)) < 1e-6


def test_ld_alpha_weights_the_longer_reply_on_both_models():
    """Tokens beyond the shorter reply count half, for policy and reference alike."""
    value = scorer(ld_alpha=0.5).trl_loss(*TOY).item()
    assert abs(value - math.log(1 + math.exp(-0.3 * ((-1.5 + 2.5) - (-3 + 2))))) < 1e-6
    short = scorer(ld_alpha=0.0).trl_loss(scores([-0.5, -0.5, -9, -1, -2]), *TOY[1:]).item()
    assert abs(short - 0.437488) < 1e-6, "the third token of the chosen reply is masked"


def test_weighting_by_the_policys_own_probability():
    plain, weighted = scorer().trl_loss(*TOY).item(), scorer(use_weighting=True).trl_loss(*TOY).item()
    assert abs(weighted / plain - math.exp(-2 / 3 + 0.5) * math.exp(-1.5 + 0.5)) < 1e-6


def test_metrics_are_trls():
    loss = scorer()
    loss.trl_loss(*TOY)
    metrics = {name: values[0] for name, values in loss._metrics["train"].items()}
    assert metrics["rewards/accuracies"] == 1 and abs(metrics["rewards/margins"] - 0.6) < 1e-6
    assert abs(metrics["logps/chosen"] + 2) < 1e-6 and metrics["num_tokens"] == 5


# --- pairs of a step -----------------------------------------------------------------------------------------------------------

def test_rows_and_mask():
    values, counts = torch.arange(1.0, 9.0), [(3, 2), (1, 2)]
    assert reply_rows(values, counts).tolist() == [[1, 2, 3], [6, 0, 0], [4, 5, 0], [7, 8, 0]]
    assert reply_mask(counts, values.device).tolist() == [[0, 1, 1, 1], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]]


def stepped(pairs: list[tuple[str, float]], weights: list[str] = (), keep: bool = False, **changes):
    """Loss of one step over pairs of one token per side whose chosen reply gained the given log-ratio; ``keep``: and the trainer."""
    trainer = scorer(PreferenceTrainer, per_device_train_batch_size=len(pairs), **changes)
    trainer.smoothed = trainer.args.label_smoothing > 0
    trainer.loss_types = ["aot" if name == "sigmoid" and trainer.smoothed else name for name in trainer.loss_types]
    trainer.weights, trainer.cache, trainer.meters = mode_weights(list(weights)), None, {}
    trainer.mode_sums = torch.zeros(len(FAILURE_MODES), 3)
    modes = [mode for mode, _ in pairs]
    frozen = [v for i in range(len(pairs)) for v in (1.5 * i, 0.0)]  # in another order than what the policy says
    policy = scores([v + theirs for (_, gain), theirs in zip(pairs, frozen[0::2]) for v in (gain, -theirs)])
    out = SimpleNamespace(policy=policy, reference=scores(frozen), masks=None, anchor=None)
    batch = {"modes": tuple(modes), "label_counts": ((1, 1),) * len(pairs), "keys": modes}
    loss = trainer.compute_loss(lambda **_: out, batch, num_items_in_batch={"modes": {mode: modes.count(mode) for mode in modes}})
    return (loss, trainer) if keep else loss.item()


def single(gain: float) -> float:
    return math.log(1 + math.exp(-0.3 * gain))


BALANCED = [("spatial", 2.0), ("temporal", -1.0), ("cross_frame", 0.5)]
EQUAL = ["spatial=1", "temporal=1", "cross_frame=1"]


def test_t6_equal_weights_on_a_balanced_step_are_plain_dpo():
    assert abs(stepped(BALANCED, EQUAL) - stepped(BALANCED)) < 1e-6
    assert abs(stepped(BALANCED) - sum(single(g) for _, g in BALANCED) / 3) < 1e-6


def test_t6_modes_are_averaged_apart_and_weighted():
    pairs = [*BALANCED, ("spatial", 4.0)]
    expected = (2 * (single(2) + single(4)) / 2 + 3 * single(-1) + 5 * single(0.5)) / 10
    assert abs(stepped(pairs, ["spatial=2", "temporal=3", "cross_frame=5"]) - expected) < 1e-6


def test_t6_absent_mode_contributes_nothing():
    value = stepped(BALANCED[:2], EQUAL)
    assert abs(value - (single(2.0) + single(-1.0)) / 3) < 1e-6
    assert pair_weights(["spatial"], {"spatial": 4}, {"spatial": 1.0, "temporal": 3.0}) == [1 / 16]


def test_label_smoothing_of_the_sigmoid_loss():
    """cDPO: with probability e the label is wrong."""
    pairs = [("other", 2.0), ("other", -1.0), ("other", 0.25)]
    expected = sum(0.9 * single(g) + 0.1 * single(-g) for _, g in pairs) / 3
    assert abs(stepped(pairs, label_smoothing=0.1) - expected) < 1e-6
    assert abs(stepped(pairs) - expected) > 1e-2


def test_accuracy_and_margin_per_mode():
    _, trainer = stepped([("spatial", 1.0), ("spatial", -2.0), ("other", 2.0)], keep=True)
    rows = trainer.mode_sums[[FAILURE_MODES.index("spatial"), FAILURE_MODES.index("other")]]
    assert torch.allclose(rows, torch.tensor([[2, 1, -0.3], [1, 1, 0.6]]))


# --- settings --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_settings_without_effect_are_refused(name):
    value = {"truncation_mode": "keep_end", "pad_token": "x", "model_init_kwargs": {"a": 1}}.get(name)
    value = value or (7 if name.startswith(("max", "pad", "precompute_ref_batch", "dataset", "router", "ref_model")) else True)
    with pytest.raises(ConfigError, match=f"{name}=.* has no effect here: "):
        arguments(**{name: value})


@pytest.mark.parametrize(("changes", "message"), [
    ({"loss_type": ["sigmoit"]}, "nearest: 'sigmoid'"), ({"loss_weights": [1.0, 2.0]}, "one weight per loss"), ({"beta": 0.0}, "beta=0.0"),
    ({"ld_alpha": 2.0}, "ld_alpha"), ({"label_smoothing": 0.5}, "label_smoothing=0.5"),
    ({"label_smoothing": 0.1, "loss_type": ["ipo"]}, "no effect on loss_type=ipo"), ({"loss_type": ["exo_pair"]}, "needs label_smoothing"),
    ({"loss_type": ["aot"]}, "leaves nothing to sort"), ({"label_smoothing": 0.1, "use_weighting": True}, "use_weighting=True"),
])
def test_losses_are_checked(changes, message):
    with pytest.raises(ConfigError, match=message):
        arguments(**changes)


@pytest.mark.parametrize(("changes", "message"), [
    ({"reference": "sft"}, "reference='sft'"), ({"reference": "cached"}, "cached needs a file"), ({"reference_cache": "x"}, "cached needs a file"),
    ({"train": ["seg"]}, "SAM 2 and its head"), ({"mode_weights": ["spatial"]}, "MODE=WEIGHT"),
    ({"mode_weights": ["spatal=1"]}, "nearest: 'spatial'"),
    ({"mode_weights": ["spatial=1", "spatial=2"]}, "once per mode"), ({"mode_weights": ["spatial=0"]}, "positive"),
])
def test_run_settings_are_checked(changes, message):
    with pytest.raises(ConfigError, match=message):
        PairRunSettings(**changes)


RECIPES = Path(launch.__file__).parent / "recipes"
PRESETS = {
    "dpo_povqa": {"beta": 0.3, "learning_rate": 5e-6, "loss_type": ["sigmoid_norm"], "supervise": "answer", "gradient_accumulation_steps": 8,
                  "num_train_epochs": 1, "warmup_steps": 0.03, "max_grad_norm": 1.0, "max_tokens": 4096, "seed": 42},
    "dpo_videopasta": {"num_frames": 32, "mode_weights": ["spatial=1", "temporal=1", "cross_frame=1"]},
    "dpo_hound": {"beta": 0.1, "learning_rate": 5e-7, "num_train_epochs": 3, "lr_scheduler_type": "linear", "warmup_steps": 0.1, "weight_decay": 0.0,
                  "deepspeed": "zero2", "global_batch": 128, "save_steps": 70, "loss_type": ["sigmoid"]},
}


@pytest.mark.parametrize(("name", "gpus"), [("dpo_povqa", 1), ("dpo_videopasta", 8), ("dpo_hound", 8)])
def test_t7_presets_hold_the_published_values(name, gpus):
    values = read_recipe(RECIPES / f"{name}.yaml")
    assert {key: values[key] for key in PRESETS[name]} == PRESETS[name]
    off = {"bf16": "false", "tf32": "false", "deepspeed": "", "report_to": "none", "dataloader_num_workers": "0",
           "quantize": "none"}  # as on a machine without a GPU
    _, lora, _, frames, text, _, run, args = parse(dpo.SETTINGS, ["--config", str(RECIPES / f"{name}.yaml"), "--shards", "x",
                                                                  *(part for k, v in off.items() for part in (f"--{k}", v))])
    batch = {"per_device_train_batch_size": args.per_device_train_batch_size, "gradient_accumulation_steps": args.gradient_accumulation_steps,
             "loss_type": args.loss_type, "label_smoothing": 0.0}
    dpo.check_settings(lora, frames, text, run, SimpleNamespace(**batch, world_size=gpus))
    with pytest.raises(ConfigError, match=f"global_batch={run.global_batch}, but .* x {3 * gpus} processes"):
        dpo.check_settings(lora, frames, text, run, SimpleNamespace(**batch, world_size=3 * gpus))


def test_mode_weights_must_be_those_of_the_data():
    run = PairRunSettings(mode_weights=EQUAL)
    dpo.check_modes(run, Counter(["spatial", "temporal", "cross_frame"]))
    for modes in (["spatial", "temporal"], ["spatial", "temporal", "cross_frame", "other"]):
        with pytest.raises(ConfigError, match="give a weight to each of them"):
            dpo.check_modes(run, Counter(modes))


def test_every_loss_of_trl_is_known():
    """Fails when a version of TRL has others: then check what its arithmetic reads."""
    text = "".join(PreferenceLoss._compute_loss.__code__.co_consts[i] for i, c in enumerate(PreferenceLoss._compute_loss.__code__.co_consts)
                   if isinstance(c, str) and "Should be one of" in c)
    named = set(text[text.index("["):].replace("'", "").replace("[", " ").replace("]", " ").replace(",", " ").split()) if text else set()
    assert named == set(LOSSES)
