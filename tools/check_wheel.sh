#!/usr/bin/env bash
# Builds the wheel, checks that all of it is there, and tries it as a training job would have it: base install only.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir "$work" .
"$python" - "$work"/*.whl <<'PY'
import subprocess, sys, zipfile
inside = {name for name in zipfile.ZipFile(sys.argv[1]).namelist() if name.startswith("gradnoise/")}
tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.split()
roots = ("proto/", "collector/", "analyzer/", "clients/")
expected = {name.split("/", 1)[1] for name in tracked if name.startswith(roots)}
if inside != expected:
    sys.exit(f"missing from the wheel: {sorted(expected - inside)}; not tracked: {sorted(inside - expected)}")
print(f"the wheel holds all {len(inside)} files")
PY
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install --quiet --constraint constraints.txt "$work"/*.whl
cd "$work"
venv/bin/python -c "import gradnoise.collector, gradnoise.wire, gradnoise.client, gradnoise.v1.ingest_pb2_grpc"
venv/bin/gradnoise --help > /dev/null
code=0
venv/bin/gradnoise runs --endpoint 127.0.0.1:1 2> runs.err || code=$?
[[ $code == 3 ]] || { echo "gradnoise runs ended with $code on a base install: $(cat runs.err)" >&2; exit 1; }
code=0
venv/bin/gradnoise serve --data store 2> serve.err || code=$?
grep -q "pip install 'gradnoise\[analyzer\]'" serve.err || {
    echo "gradnoise serve on a base install does not say what to install: $(cat serve.err)" >&2
    exit 1
}
echo "the base install works and says what the analyzer needs"
