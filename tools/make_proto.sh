#!/usr/bin/env bash
# Regenerates the committed protobuf code; --check compares instead and fails on drift.
# grpcio-tools 1.71.2 is pinned (dev group): its output runs under protobuf 5.29, 6 and 7, newer tools' does not.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=proto
if [[ ${1:-} == --check ]]; then
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
fi
"$python" -m grpc_tools.protoc -Iproto --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" \
    proto/gradnoise/v1/*.proto
if [[ $out == proto ]]; then exit 0; fi
committed=$(mktemp -d)
trap 'rm -rf "$out" "$committed"' EXIT
find proto/gradnoise/v1 \( -name '*_pb2*.py' -o -name '*_pb2*.pyi' \) -exec cp {} "$committed" \;
diff -ru "$committed" "$out/gradnoise/v1" || {
    echo "generated code differs from the .proto files: run 'make proto' and commit the result" >&2
    exit 1
}
echo "generated protobuf code is up to date"
