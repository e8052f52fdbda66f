#!/usr/bin/env bash
# Preference training once per pooling method, each from the supervised model of the same method (POVQA); works from any directory.
set -euo pipefail

usage() {
    cat <<'END'
usage: [METHODS=(NAME …)] run_dpo.sh [--print] [-- FLAGS]

  --print    show the commands and stop (so does DRY=1)
  FLAGS      flags of `unipixel train dpo`; they win over everything before

METHODS      pooling methods, default: blend_blur_with_last_frame weighted_average weighted_average_exponential weighted_average_ramp
PAIRS        folder with a packed folder of pairs per method, default: shards/dpo
SFT_MODELS   folder with a supervised model per method, default: models/sft-qwen7b-interleaved-16f
DPO_MODELS   gets a model per method, default: models/dpo-qwen7b-interleaved-16f
CONFIG       recipe, default: dpo_povqa

A method whose model is complete is left alone; a method that was interrupted goes on from its newest checkpoint. The first failure stops
the script with its exit code, before the methods behind it.
END
}

refuse() {
    printf 'run_dpo.sh: %s\n\n' "$1" >&2
    usage >&2
    exit 2
}

print=${DRY:-}
while (($#)); do
    case $1 in
        --print) print=1 ;;
        -h | --help) usage; exit 0 ;;
        --) shift; break ;;
        *) refuse "unknown argument $1; flags of the training go after --" ;;
    esac
    shift
done

# In front of a command bash hands an array over as the text "(a b)".
given=${METHODS:-blend_blur_with_last_frame weighted_average weighted_average_exponential weighted_average_ramp}
given=${given#\(} given=${given%\)}
read -ra methods <<<"$given"
((${#methods[@]})) || refuse "METHODS is empty"
pairs=${PAIRS:-shards/dpo} sft=${SFT_MODELS:-models/sft-qwen7b-interleaved-16f} dpo=${DPO_MODELS:-models/dpo-qwen7b-interleaved-16f}

if [[ -z $print ]]; then
    for method in "${methods[@]}"; do # all of them before the first one trains for hours
        [[ -d $pairs/$method ]] || refuse "no pairs of the method $method: $pairs/$method is not a folder (PAIRS, METHODS)"
        [[ -d $sft/$method ]] || refuse "no supervised model of the method $method: $sft/$method is not a folder (SFT_MODELS, METHODS)"
    done
fi
for method in "${methods[@]}"; do
    command=(unipixel train dpo --config "${CONFIG:-dpo_povqa}" --shards "$pairs/$method" --init_from "$sft/$method" --output_dir "$dpo/$method" "$@")
    if [[ -n $print ]]; then
        printf '%q ' "${command[@]}"
        echo
    elif [[ -f $dpo/$method/adapter_model.safetensors ]]; then
        echo "$method: $dpo/$method is complete"
    else
        echo "$method"
        "${command[@]}"
    fi
done
