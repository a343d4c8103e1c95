#!/bin/sh
# Install the peers of the S/MIME interop tests: Debian's gpgsm, NSS and Bouncy Castle, npm's
# node-forge. Quick when all are there.
set -eu
cd "$(dirname "$0")"
missing=""
for package in openssl gpgsm gpg-agent libnss3-tools libbcmail-java default-jdk-headless; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "install ok installed" ||
        missing="$missing $package"
done
# A node that did not come from Debian will do.
command -v npm >/dev/null || missing="$missing nodejs npm"
if [ -n "$missing" ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    # shellcheck disable=SC2086
    apt-get install -qy --no-install-recommends $missing
fi
[ node_modules/.package-lock.json -nt package-lock.json ] ||
    npm ci --silent --no-audit --no-fund
