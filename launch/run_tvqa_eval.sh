#!/usr/bin/env bash
# Every preference-trained model over every pooling method on 5000 questions of TVQA's validation part (POVQA); works from any directory.
set -euo pipefail

usage() {
    cat <<'END'
usage: [METHODS=(NAME …)] run_tvqa_eval.sh [--print] [-- FLAGS]

  --print    show the commands and stop (so does DRY=1)
  FLAGS      flags of `unipixel film eval`, e.g. -- --limit 5; they win over everything before

METHODS      pooling methods to evaluate on, default: blend_blur_with_last_frame weighted_average weighted_average_exponential
             weighted_average_ramp
INPUT        TVQA as released: tvqa_qa_release/tvqa_val.jsonl, frames_hq, tvqa_subtitles; default: input_data
PROCESSED    folder named processed_tvqa: gets pooled clips and the drawn questions, default: processed_tvqa
PREPARED     not empty: the clips are pooled already, and those that cannot be used are known (processed_tvqa/skipped.jsonl)
COUNT, SEED  questions drawn, by show in proportion, default: 5000, 42
CONTEXT      ts (default): the annotated moment alone, as POVQA evaluates, which gives away where the answer is seen; clip: the whole clip,
             in folders that end in _clip
TVQA         gets the packed questions per method, default: shards/tvqa_val5k
DPO_MODELS   folder of models, default: models/dpo-qwen7b-interleaved-16f
RUNS         gets tvqa_dpo_val5k_59f_uniform/ADAPTER/METHOD, default: runs
VARIANT      full (default), text_only, frames_only, classic: an ablation, in run folders of its own

What is there already is kept, also question by question. The first failure stops the script with its exit code.
END
}

source "$(dirname "${BASH_SOURCE[0]}")/film_runs.sh"
read_arguments "$@"
input=${INPUT:-input_data} processed=${PROCESSED:-processed_tvqa} count=${COUNT:-5000} seed=${SEED:-42} context=${CONTEXT:-ts}
kind=
[[ $context == ts ]] || kind=_$context
shards=${TVQA:-shards/tvqa_val5k$kind} table=val_${count}_seed$seed.jsonl
[[ $(basename "$processed") == processed_tvqa ]] || refuse "PROCESSED=$processed must be a folder named processed_tvqa, where packing looks for it"
questions=$input/tvqa_qa_release/tvqa_val.jsonl
[[ -n $print || -f $questions ]] || refuse "no questions: $questions is not a file (INPUT)"

if [[ ! -f $processed/$table ]]; then # step 0: which questions
    run unipixel film sample --input "$questions" --out "$processed/$table" --n "$count" --seed "$seed"
fi
if [[ -z ${PREPARED:-} ]]; then
    run unipixel film prepare --videos "$input/frames_hq" --frames_fps 3 --subtitles "$input/tvqa_subtitles" --out "$processed" \
        --methods "${methods[@]}"
fi
for method in "${methods[@]}"; do
    if [[ ! -f $shards/$method/dataset.json ]]; then
        run unipixel pack --source tvqa --input "$(dirname "$processed")" --split val --out "$shards/$method" \
            --set "table=processed_tvqa/$table" "pooling=$method" "context=$context"
    fi
done

name=tvqa_dpo_val5k_59f_uniform
[[ $variant == full ]] || name=tvqa_dpo_val5k_$variant
out=$runs/$name$kind
run unipixel film eval --task tvqa --models "$dpo_models" --shards "$shards" --methods "${methods[@]}" --variant "$variant" --out "$out" "${flags[@]}"
run unipixel film grid --runs "$runs" --run_names "$(basename "$out")" --variant "$variant" # step 2: what came out
