# Sourced by run_sft.sh, run_sft_eval.sh, run_dpo.sh, run_dpo_eval.sh and run_tvqa_eval.sh: their arguments, methods, folders and commands.
# shellcheck shell=bash disable=SC2034  # what is set here is used there
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
script=$(basename "$0")
suffix=qwen7b-interleaved-16f
sft_models=${SFT_MODELS:-models/sft-$suffix} dpo_models=${DPO_MODELS:-models/dpo-$suffix}
train=${TRAIN:-shards/reasonvqa_train} validation=${VALIDATION-shards/reasonvqa_validation} test=${TEST:-shards/reasonvqa_test}
runs=${RUNS:-runs} variant=${VARIANT:-full} print=${DRY:-} flags=() methods=()

refuse() {
    printf '%s: %s\n\n' "$script" "$1" >&2
    usage >&2
    exit 2
}

# The arguments of every script: --print, -h, and flags of the command after --.
read_arguments() {
    while (($#)); do
        case $1 in
            --print) print=1 ;;
            -h | --help) usage; exit 0 ;;
            --) shift; break ;;
            *) refuse "unknown argument $1; flags of the command go after --" ;;
        esac
        shift
    done
    flags=("$@")
    # In front of a command bash hands an array over as the text "(a b)".
    local given=${METHODS:-blend_blur_with_last_frame weighted_average weighted_average_exponential weighted_average_ramp}
    given=${given#\(} given=${given%\)}
    read -ra methods <<<"$given"
    ((${#methods[@]})) || refuse "METHODS is empty"
}

# need FOLDER WHAT NAMES: every method has its folder in FOLDER, looked at before the first one takes hours.
need() {
    local method
    [[ -z $print ]] || return 0
    for method in "${methods[@]}"; do
        [[ -d $1/$method ]] || refuse "no $2 of the method $method: $1/$method is not a folder ($3)"
    done
}

# recipe NAME: the file of a shipped recipe, or a file as it is.
recipe() {
    if [[ -f $1 ]]; then echo "$1"; else echo "$here/recipes/${1%.yaml}.yaml"; fi
}

# run_name NAME: folder of a run; an ablation has one of its own.
run_name() {
    if [[ $variant == full ]]; then echo "$runs/$1"; else echo "$runs/${1%_59f*}_$variant"; fi
}

# Show a command, or run it; the first failure ends the script with its exit code.
run() {
    if [[ -n $print ]]; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}

# train_each MODELS COMMAND…: one model per method, `{}` in the command stands for the method; complete ones are left alone.
train_each() {
    local models=$1 method
    shift
    for method in "${methods[@]}"; do
        if [[ -z $print && -f $models/$method/adapter_model.safetensors ]]; then
            echo "$method: $models/$method is complete"
            continue
        fi
        [[ -n $print ]] || echo "$method"
        run "${@//\{\}/$method}" "${flags[@]}"
    done
}
