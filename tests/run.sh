#!/usr/bin/env bash
# Builds and runs every test through CTest. Installs what is missing; further arguments go to ctest (e.g. -R unit/model).
set -euo pipefail
cd "$(dirname "$0")/.."
source jobs/dependencies.sh
APB_DEBIAN_PACKAGES+=(clang-format) # for the test style/format
if ((EUID == 0)); then
  APB_DEBIAN_PACKAGES+=(slurm-wlm munge) # a private Slurm, for end_to_end/test_slurm.py; skipped without
fi
install_dependencies
cmake --preset release -DPython3_EXECUTABLE="$APB_PYTHON" --log-level=WARNING
grep -q libapb_cuda.so build/release/build.ninja ||
  echo "apb: no CUDA with nvcc, cuBLAS and NCCL here: the CUDA device is neither built nor tested"
cmake --build --preset release
"$APB_PYTHON" data/fetch_smollm2.py
ctest --preset release "$@"
