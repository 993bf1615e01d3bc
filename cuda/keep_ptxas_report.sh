#!/bin/sh
# Compiler launcher: keep_ptxas_report.sh FOLDER COMPILER ...; what ptxas reports of the kernels (registers, shared
# memory, spills) goes to FOLDER/SOURCE.txt instead of the terminal, which gets everything else.
folder=$1
shift
source=
for argument in "$@"; do
  case $argument in *.cu) source=${argument##*/} ;; esac
done
[ -n "$source" ] || exec "$@"
mkdir -p "$folder"
report=$folder/${source%.cu}.txt
"$@" 2>"$report.new"
status=$?
grep -v -e '^ptxas info' -e '^    [0-9]* bytes stack frame' "$report.new" >&2
grep -e '^ptxas info' -e '^    [0-9]* bytes stack frame' "$report.new" >"$report"
rm -f "$report.new"
exit $status
