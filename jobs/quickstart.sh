#!/usr/bin/env bash
# From a fresh clone to an answer: installs what is missing, builds, fetches the demo model, and runs the main job over 4
# MPI ranks on a long document with pass keys planted in it. A second run finds everything there.
set -euo pipefail
cd "$(dirname "$0")/.."
source jobs/dependencies.sh
install_dependencies

cmake --preset release -DPython3_EXECUTABLE="$APB_PYTHON" --log-level=WARNING
cmake --build --preset release --target apb
"$APB_PYTHON" data/fetch_smollm2.py

work=${APB_DATA:-$HOME/.cache/apb}/quickstart
model=${APB_DATA:-$HOME/.cache/apb}/smollm2-135m-instruct
tokens=${APB_QUICKSTART_TOKENS:-7000}
mkdir -p "$work"
documents=$work/passkey-$tokens.jsonl
[ -e "$documents" ] || "$APB_PYTHON" data/make_passkey_document.py --tokenizer "$model" --tokens "$tokens" --output "$documents"

# Nine documents, three ways: exact attention, and APB with 4 and 8 blocks. Complete results are left as they are.
run() {
  mpirun -n 4 --oversubscribe build/release/apb run --model "$model" --input "$documents" --output "$work/$1-$tokens.h5" \
    --template none --resume "${@:2}"
}
run apb-8-blocks --method apb --blocks 8
run apb-4-blocks --method apb --blocks 4
run full --method full

"$APB_PYTHON" jobs/show_passkeys.py "$work"/{full,apb-4-blocks,apb-8-blocks}-"$tokens".h5
