#!/usr/bin/env bash
# Preference training once per pooling method, each from the supervised model of the same method (POVQA); works from any directory.
set -euo pipefail

usage() {
    cat <<'END'
usage: [METHODS=(NAME …)] run_dpo.sh [--print] [-- FLAGS]

  --print    show the commands and stop (so does DRY=1)
  FLAGS      flags of `unipixel train dpo`; they win over everything before

METHODS      pooling methods, default: blend_blur_with_last_frame weighted_average weighted_average_exponential weighted_average_ramp
PAIRS        folder with a packed folder of pairs per method, default: shards/dpo; what is missing is made from TRAIN: right answers against
             answers to other training questions
TRAIN        folder with packed questions per method, default: shards/reasonvqa_train
SFT_MODELS   folder with a supervised model per method, default: models/sft-qwen7b-interleaved-16f
DPO_MODELS   gets a model per method, default: models/dpo-qwen7b-interleaved-16f
CONFIG       recipe, default: dpo_povqa

A method whose model is complete is left alone; a method that was interrupted goes on from its newest checkpoint. The first failure stops
the script with its exit code, before the methods behind it.
END
}

source "$(dirname "${BASH_SOURCE[0]}")/film_runs.sh"
read_arguments "$@"
pairs=${PAIRS:-shards/dpo} missing=()
need "$sft_models" "supervised model" "SFT_MODELS, METHODS"
for method in "${methods[@]}"; do
    if [[ ! -f $pairs/$method/dataset.json ]]; then
        [[ -n $print || -d $train/$method ]] ||
            refuse "no pairs of the method $method: $pairs/$method is no packed folder, nor is $train/$method to make them of (PAIRS, TRAIN, METHODS)"
        missing+=("$method")
    fi
done
for method in "${missing[@]}"; do
    run unipixel pairs make correctness --shards "$train/$method" --out "$pairs/$method.questions.jsonl"
    run unipixel pairs filter --questions "$pairs/$method.questions.jsonl" --shards "$train/$method" --out "$pairs/$method"
done
train_each "$dpo_models" unipixel train dpo --config "${CONFIG:-dpo_povqa}" --shards "$pairs/{}" --init_from "$sft_models/{}" \
    --output_dir "$dpo_models/{}"
