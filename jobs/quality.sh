#!/usr/bin/env bash
# Measures how well each method answers (docs/quality.md): makes the tasks, runs every method on them, writes tables and
# pictures. Finished parts are not done again. Hours on two cores; with --quick minutes. Further options: jobs/quality.py.
set -euo pipefail
cd "$(dirname "$0")/.."
source jobs/dependencies.sh
install_dependencies

cmake --preset release -DPython3_EXECUTABLE="$APB_PYTHON" --log-level=WARNING
cmake --build --preset release --target apb
"$APB_PYTHON" data/fetch_smollm2.py
exec "$APB_PYTHON" jobs/quality.py --apb build/release/apb "$@"
