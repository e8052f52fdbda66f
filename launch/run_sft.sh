#!/usr/bin/env bash
# Supervised training once per pooling method (POVQA); works from any directory.
set -euo pipefail

usage() {
    cat <<'END'
usage: [METHODS=(NAME …)] run_sft.sh [--print] [-- FLAGS]

  --print    show the commands and stop (so does DRY=1)
  FLAGS      flags of `unipixel train sft`; they win over everything before

METHODS      pooling methods, default: blend_blur_with_last_frame weighted_average weighted_average_exponential weighted_average_ramp
TRAIN        folder with packed questions per method, default: shards/reasonvqa_train
VALIDATION   the same of the films that choose the checkpoint, default: shards/reasonvqa_validation; empty: keep the last one
SFT_MODELS   gets a model per method, default: models/sft-qwen7b-interleaved-16f
CONFIG       recipe, default: sft_povqa

A method whose model is complete is left alone; a method that was interrupted goes on from its newest checkpoint. The first failure stops
the script with its exit code, before the methods behind it.
END
}

source "$(dirname "${BASH_SOURCE[0]}")/film_runs.sh"
read_arguments "$@"
need "$train" questions "TRAIN, METHODS"
if [[ -n $validation ]]; then
    need "$validation" "validation questions" "VALIDATION, METHODS"
    choice=(--eval_shards "$validation/{}")
else
    choice=(--keep_best false)
fi
train_each "$sft_models" unipixel train sft --config "${CONFIG:-sft_povqa}" --shards "$train/{}" "${choice[@]}" --output_dir "$sft_models/{}"
