#!/usr/bin/env bash
# A checkpoint on every benchmark whose shards are there, on all GPUs of this machine; works from any directory, and goes on where it ended.
set -euo pipefail

usage() {
    cat <<'END'
usage: auto_eval.sh CHECKPOINT [SUITE] [--published] [--print] [-- FLAGS]

  CHECKPOINT   folder of a trained model, or of a UniPixel release
  SUITE        unipixel (default), judged, or a YAML file of {task, shards, compat, label}
  --published  repeat the protocols of the published UniPixel scripts where they differ from ours
  --print      show the command and stop (so does DRY=1)
  FLAGS        flags of `unipixel bench`, e.g. -- --models models.yaml; they win over everything before

SHARDS (default: shards beside this folder) holds the packed benchmarks. WORK_DIRS (default: work_dirs beside this folder) gets
eval/CHECKPOINT_SUITE/ with predictions, results, and zip files for the benchmarks that a server scores. Start the same command on more
machines that see WORK_DIRS, and they share the work.
END
}

refuse() {
    printf 'auto_eval.sh: %s\n\n' "$1" >&2
    usage >&2
    exit 2
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
checkpoint='' suite='' compat='' print=${DRY:-}

while (($#)); do
    case $1 in
        --published) compat=unipixel ;;
        --print) print=1 ;;
        -h | --help) usage; exit 0 ;;
        --) shift; break ;;
        -*) refuse "unknown flag $1; flags of the benchmark command go after --" ;;
        *)
            if [[ -z $checkpoint ]]; then
                [[ -d $1 ]] || refuse "checkpoint $1 is not a folder"
                checkpoint=$(cd "$1" && pwd)
            elif [[ -z $suite ]]; then
                suite=$1
            else
                refuse "unexpected argument $1"
            fi
            ;;
    esac
    shift
done

[[ -n $checkpoint ]] || refuse "name a checkpoint folder"
suite=${suite:-unipixel}
file=$root/benchmarks/suites/$suite.yaml
[[ -f $file ]] || file=$suite
[[ -f $file ]] || refuse "suite $suite is neither unipixel, judged nor a file"
name=$(basename "$suite" .yaml)
export SHARDS=${SHARDS:-$root/shards}

command=(unipixel bench
    --suite "$file"
    --skip_absent true
    --model "$checkpoint"
    --out "${WORK_DIRS:-$root/work_dirs}/eval/$(basename "$checkpoint")_$name${compat:+_$compat}"
    --export true
    ${compat:+--compat "$compat"}
    "$@")

printf 'SHARDS=%q ' "$SHARDS"
printf '%q ' "${command[@]}"
printf '\n'
if [[ -n $print ]]; then
    exit 0
fi
export PATH="$PATH:$root/.venv/bin"
exec "${command[@]}"
