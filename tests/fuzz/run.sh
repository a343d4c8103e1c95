#!/bin/sh
# Fuzz every parser, or those named, for SECONDS each (600), and keep a small corpus in the tree.
# Ends with an error where an input was found that raises anything but a DirectError.
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
seconds=${SECONDS_EACH:-600}
[ $# -gt 0 ] || set -- ber signed enveloped compressed plaintext layers message multipart transfer header notice bundle policy hl7v2 tnef
$python -c "import atheris" 2>/dev/null || $python -m pip install -q "atheris>=3.0"
for target in "$@"; do
    work=$(mktemp -d)
    mkdir -p "tests/fuzz/corpus/$target" "$work/found"
    $python -m tests.fuzz "$target" "$work/found" "-max_total_time=$seconds" \
        "-artifact_prefix=$work/" >"$work/log" 2>&1 || { tail -30 "$work/log"; exit 1; }
    echo "$target: $(grep -a '^Done' "$work/log")"
    # Each found something new in its time; the smallest forty of them are kept.
    find "$work/found" -type f -size -2048c -printf '%s %p\n' | sort -n | head -n 40 |
        while read -r _size file; do cp "$file" "tests/fuzz/corpus/$target/"; done
    rm -rf "$work"
done
