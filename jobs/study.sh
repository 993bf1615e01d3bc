#!/usr/bin/env bash
# A study of all methods over lengths and ranks, in one command: measures every case with `apb bench` into an HDF5 file
# of its own in a folder, holds it against its prediction, and draws it. A case that has its file is not measured again,
# so the same command goes on after an interruption, or adds cases. docs/running.md explains it.
#
#   jobs/study.sh                                   # minutes on two cores
#   jobs/study.sh --lengths 8192,32768 --ranks 1,2,8 --methods apb,apb-published,ring --output studies/small
#   jobs/study.sh --predict --lengths 131072 --ranks 64   # measures one case of full on one rank, predicts all
#   jobs/study.sh --rounds 5    # all cases five times, in turns: for machines whose speed changes; medians are shown
#
# --methods: apb, full, ring, ulysses, star; with -N behind it N blocks (apb-8), with -published what was published
# (B = R, anchor on every rank). What stands behind -- goes to every `apb bench`.
# From the environment: APB, the program [build/release/apb], APB_LAUNCHER, what starts it with -n RANKS
# [mpirun --bind-to none], APB_PYTHON. Ranks beyond the cores (SLURM_NTASKS in a job) are emulated, all beyond one with
# --emulate.
set -euo pipefail

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }
fail() {
  echo "study.sh: $*" >&2
  exit 2
}

lengths=2048,8192 ranks=1,2,8 methods=apb,apb-published,full,ring,ulysses,star
shape='' model='' layers=4 threads=1 repeats=3 warmup=1 rounds=1 calibrate=8192 output=study
predict=false emulate=false more=()
while (($#)); do
  case $1 in
    --predict | --emulate) declare "${1#--}=true" && shift ;;
    --lengths | --ranks | --methods | --shape | --model | --layers | --threads | --repeats | --warmup | --rounds | \
      --calibrate | --output)
      (($# > 1)) || fail "$1 wants a value"
      declare "${1#--}=$2" && shift 2
      ;;
    --) shift && more=("$@") && break ;;
    --help) usage && exit ;;
    *) fail "'$1' is no option; --help lists them" ;;
  esac
done

jobs=$(dirname "$(realpath "$0")")
apb=${APB:-$jobs/../build/release/apb}
command -v "$apb" >/dev/null || fail "$apb: no program; build it, or name it with APB"
read -r -a launcher <<<"${APB_LAUNCHER:-mpirun --bind-to none}"
venv=${APB_DATA:-$HOME/.cache/apb}/venv/bin/python
python=${APB_PYTHON:-$([[ -x $venv ]] && echo "$venv" || echo python3)}
cores=$(lscpu -p=CORE,SOCKET 2>/dev/null | grep -v '^#' | sort -u | wc -l) # mpirun starts no more ranks than these
available=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
places=${SLURM_NTASKS:-$(((cores && cores < available ? cores : available) / threads))}
source=(--shape "${shape:-smollm2-135m}")
[[ -z $model ]] || source=(--model "$model")
[[ $layers == all ]] || source+=(--layers "$layers")
mkdir -p "$output/plans"
setting="${source[*]} --threads $threads"
[[ ! -e $output/setting ]] || [[ $(<"$output/setting") == "$setting" ]] ||
  fail "$output is a study of $(<"$output/setting"), not of $setting: give each its own folder"
echo "$setting" >"$output/setting"

# Of what every bench gets, the options that decide what there is to do.
counted=()
for ((i = 0; i < ${#more[@]}; ++i)); do
  case ${more[i]} in
    --anchor-length=* | --passing-length=* | --query-length=* | --query-insert=* | --anchor-query=* | --compressor=*)
      counted+=("${more[i]}") ;;
    --anchor-length | --passing-length | --query-length | --query-insert | --anchor-query | --compressor)
      counted+=("${more[@]:i:2}") ;;
  esac
done
failed=0

# Runs one case, unless its file of this round is there.
measure() {
  local name=$1 length=$2 count=$3 start=()
  local file=$output/$name-$length-r$count$turn.h5 options=()
  [[ ! -e $file ]] || return 0
  if ((count > 1)) && { $emulate || ((count > places)); }; then
    options=(--emulate-ranks "$count")
  else
    start=("${launcher[@]}" -n "$count")
  fi
  echo "$name, $length tokens, $count ranks${options[0]:+ (emulated)}:"
  "${start[@]}" "$apb" bench "${source[@]}" --lengths "$length" --threads "$threads" --repeats "$repeats" \
    --warmup "$warmup" --decode-tokens 0 --output "$file" "${options[@]}" "${method_options[@]}" "${more[@]}" ||
    { echo "$name, $length tokens, $count ranks: failed" >&2 && failed=1; }
}

# Counts what a case has to do; says n/a where it cannot be. Sets method_options.
plan() {
  local name=$1 length=$2 count=$3 why
  local method=${name%%-*} file=$output/plans/$name-$length-r$count.json
  method_options=(--method "$method")
  case $name in
    *-published) method_options+=(--blocks "$count" --anchor-placement replicated) ;;
    *-*) method_options+=(--blocks "${name#*-}") ;;
  esac
  if ! why=$("$apb" plan "${source[@]}" --context-length "$length" --ranks "$count" \
    "${method_options[@]}" "${counted[@]}" 2>&1 >"$file"); then
    why=${why#apb: }
  elif ! grep -q "\"method\": \"$method\"" "$file"; then
    why="too short, or one block: it would be full"
  else
    return 0
  fi
  rm -f "$file"
  ((round > 1)) || echo "$name, $length tokens, $count ranks: n/a: $why"
  return 1
}

for ((round = 1; round <= rounds; ++round)); do
  turn=$( ((round == 1)) || echo "-$round")
  if plan full "$calibrate" 1; then measure full "$calibrate" 1; fi
  for length in ${lengths//,/ }; do
    for count in ${ranks//,/ }; do
      for name in ${methods//,/ }; do
        if plan "$name" "$length" "$count" && ! $predict; then measure "$name" "$length" "$count"; fi
      done
    done
  done
done

"$python" "$jobs/predict_study.py" "$output" || failed=1
"$python" "$jobs/plot_study.py" "$output" || failed=1
exit "$failed"
