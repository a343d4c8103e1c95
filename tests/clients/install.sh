#!/bin/sh
# Install the FHIR clients that are not ours: npm's here, sekmet-fhir in an environment of its own,
# because it brings a web framework and its pins along. Quick when all are there.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}
[ node_modules/.package-lock.json -nt package-lock.json ] ||
    npm ci --silent --no-audit --no-fund
if [ ! -x .sekmet/bin/sekmet ] || [ sekmet-requirements.txt -nt .sekmet/bin/sekmet ]; then
    "$python" -m venv --clear .sekmet
    .sekmet/bin/pip install -q --disable-pip-version-check -r sekmet-requirements.txt
    touch .sekmet/bin/sekmet
fi
