#!/usr/bin/env bash
# Every preference-trained model over every pooling method on ReasonVQA (POVQA); works from any directory.
set -euo pipefail

usage() {
    cat <<'END'
usage: [METHODS=(NAME …)] run_dpo_eval.sh [--print] [-- FLAGS]

  --print    show the commands and stop (so does DRY=1)
  FLAGS      flags of `unipixel film eval`, e.g. -- --limit 5 --max_new_tokens 512; they win over everything before

METHODS      pooling methods to evaluate on, default: blend_blur_with_last_frame weighted_average weighted_average_exponential
             weighted_average_ramp
TEST, TRAIN  folders with packed questions per method, default: shards/reasonvqa_test, shards/reasonvqa_train (baselines that know answers)
DPO_MODELS   folder of models, default: models/dpo-qwen7b-interleaved-16f
RUNS         gets dpo-qwen7b-interleaved-16f_59f_plus_keyframe/ADAPTER/METHOD, default: runs
VARIANT      full (default), keyframe_only, text_only, frames_only, classic: an ablation, in run folders of its own

Finished runs are kept, an interrupted one goes on where it ended. The first failure stops the script with its exit code.
END
}

source "$(dirname "${BASH_SOURCE[0]}")/film_runs.sh"
read_arguments "$@"
need "$test" questions "TEST, METHODS"
common=(--shards "$test" --methods "${methods[@]}" --variant "$variant")
[[ ! -d $train/${methods[0]} ]] || common+=(--train_shards "$train/${methods[0]}")
dpo=$(run_name dpo-${suffix}_59f_plus_keyframe)
run unipixel film eval --models "$dpo_models" --out "$dpo" "${common[@]}" "${flags[@]}"
run unipixel film grid --runs "$runs" --run_names "$(basename "$dpo")" --variant "$variant"
