#!/usr/bin/env bash
# Checks and measures the CUDA device on this machine's GPUs: builds with the preset `cuda`, runs the kernels' tests at
# all sizes, NCCL's with two GPUs or more, the kernels' tests under compute-sanitizer where there is one, and then the
# benchmarks. What is skipped is said, with the reason, and once more at the end. Exits 1 if anything failed.
#
#     tests/gpu/run.sh                                 # everything
#     APB_BENCH_SHAPE=smollm2-135m tests/gpu/run.sh    # another model for `apb bench`
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
build=build/cuda
shape=${APB_BENCH_SHAPE:-llama-3.1-8b}
passed=() failed=() skipped=()

# check NAME COMMAND...: runs it and keeps the result for the summary.
check() {
  local name=$1
  shift
  printf '\n== %s\n' "$name"
  if "$@"; then passed+=("$name"); else failed+=("$name (exit code $?)"); fi
}

skip() {
  printf '\n== %s: skipped, %s\n' "$1" "$2"
  skipped+=("$1: $2")
}

stop() {
  echo "tests/gpu/run.sh: $*" >&2
  exit 1
}

command -v nvidia-smi >/dev/null || stop "no NVIDIA driver here (nvidia-smi is missing); ./tests/run.sh needs no GPU"
gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU') || stop "nvidia-smi finds no GPU"
if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
  gpus=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | wc -l)
fi
[[ -n ${CUDACXX:-} ]] || command -v nvcc >/dev/null || PATH=${CUDA_HOME:-/usr/local/cuda}/bin:$PATH
[[ -n ${CUDACXX:-} ]] || command -v nvcc >/dev/null || stop "no nvcc here: install the CUDA toolkit, or set CUDA_HOME"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader

source jobs/dependencies.sh
install_dependencies || exit 1
cmake --preset cuda -DPython3_EXECUTABLE="$APB_PYTHON" --log-level=WARNING || stop "cmake --preset cuda failed"
cmake --build --preset cuda || stop "the build failed"
if "$build/tests/test_cuda" --gtest_filter='ScoreRecent*' | grep -q 'no GPU here'; then
  stop "the CUDA runtime cannot use the GPU that nvidia-smi shows: is the driver too old for this toolkit?"
fi

check "kernels and device, all sizes" env APB_GPU_TESTS=large "$build/tests/test_cuda"

if ((gpus < 2)); then
  skip "NCCL" "there is one GPU, it takes two"
else
  for ((ranks = 2; ranks <= gpus && ranks <= 8; ranks *= 2)); do
    check "NCCL between $ranks GPUs" \
      mpirun -n "$ranks" --oversubscribe --bind-to none "$build/tests/test_cuda_mpi"
  done
fi

if ! command -v compute-sanitizer >/dev/null; then
  skip "compute-sanitizer" "it is not installed (it comes with the CUDA toolkit)"
else
  for tool in memcheck racecheck initcheck synccheck; do
    # Our kernels alone: the libraries' are not ours to judge.
    check "compute-sanitizer, $tool" compute-sanitizer --tool "$tool" --kernel-name kernel_substring=3apb \
      --error-exitcode 1 "$build/tests/test_cuda" --gtest_brief=1
  done
fi

check "speed of attention" "$build/tests/cuda_attention_benchmark"
check "speed of the other kernels" "$build/tests/cuda_kernels_benchmark"
bench=("$build/apb" bench --shape "$shape" --layers 4 --lengths "8192,32768" --device cuda --roofline)
check "apb bench, $shape, one GPU" "${bench[@]}"
if ((gpus > 1)); then
  check "apb bench, $shape, $gpus GPUs" mpirun -n "$gpus" --bind-to none "${bench[@]}"
fi

printf '\n'
for name in "${passed[@]}"; do echo "passed   $name"; done
for name in "${skipped[@]}"; do echo "skipped  $name"; done
for name in "${failed[@]}"; do echo "FAILED   $name"; done
((${#failed[@]} == 0))
