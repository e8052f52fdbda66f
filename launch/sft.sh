#!/usr/bin/env bash
# Supervised fine-tuning of UniPixel on the GPUs of this machine; works from any directory.
set -euo pipefail

usage() {
    cat <<'END'
usage: sft.sh [3b|7b] [base|large] [--from_scratch | CHECKPOINT] [--print] [-- FLAGS]

  3b|7b           size of Qwen2.5-VL (default 3b)
  base|large      size of SAM 2.1 (default base)
  --from_scratch  start from the base model, even where checkpoints exist
  CHECKPOINT      resume from this checkpoint folder
                  with neither, resume from the newest complete checkpoint if there is one
  --print         show the command and stop (so does DRY=1)
  FLAGS           flags of `unipixel train sft`, e.g. -- --shards data/st_evidence; they win over everything before

MODEL_ZOO (default: model_zoo beside this folder) holds Meta's sam2.1_hiera_base_plus.pt and sam2.1_hiera_large.pt.
WORK_DIRS (default: work_dirs beside this folder) gets sft_SIZE_SAM2/ with checkpoints, logs and the trained model.
END
}

refuse() {
    printf 'sft.sh: %s\n\n' "$1" >&2
    usage >&2
    exit 2
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
size='' sam2='' resume='' print=${DRY:-}

while (($#)); do
    case $1 in
        3b | 7b) [[ -z $size ]] || refuse "the size is given twice: $size and $1"; size=$1 ;;
        base | large) [[ -z $sam2 ]] || refuse "the SAM 2 size is given twice: $sam2 and $1"; sam2=$1 ;;
        --from_scratch) [[ -z $resume ]] || refuse "--from_scratch contradicts $resume"; resume=never ;;
        --print) print=1 ;;
        -h | --help) usage; exit 0 ;;
        --) shift; break ;;
        -*) refuse "unknown flag $1; flags of the training go after --" ;;
        *)
            [[ -z $resume ]] || refuse "$1 contradicts ${resume/#never/--from_scratch}"
            [[ -d $1 ]] || refuse "$1 is neither 3b, 7b, base, large nor a checkpoint folder"
            resume=$1
            ;;
    esac
    shift
done

size=${size:-3b} sam2=${sam2:-base}
case $sam2 in
    base) config=sam2.1_hiera_b+ weights=sam2.1_hiera_base_plus.pt ;;
    large) config=sam2.1_hiera_l weights=sam2.1_hiera_large.pt ;;
esac

command=(unipixel train sft
    --config "$here/recipes/sft_$size.yaml"
    --sam2_config "$config"
    --sam2_checkpoint "${MODEL_ZOO:-$root/model_zoo}/$weights"
    --output_dir "${WORK_DIRS:-$root/work_dirs}/sft_${size}_$sam2"
    --resume "${resume:-auto}"
    "$@")

printf '%q ' "${command[@]}"
printf '\n'
if [[ -n $print ]]; then
    exit 0
fi
export PATH="$PATH:$root/.venv/bin"
exec "${command[@]}"
