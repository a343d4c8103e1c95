#!/bin/sh
# Install the Debian packages that the suite's real peers come from; quick when all are there.
set -eu
here=$(dirname "$0")
missing=""
for package in $(cat "$here/apt-packages.txt"); do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "install ok installed" ||
        missing="$missing $package"
done
[ -z "$missing" ] && exit 0
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# The servers are started by the tests on free loopback ports, never as system services.
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
trap 'rm -f /usr/sbin/policy-rc.d' EXIT
# shellcheck disable=SC2086
apt-get install -qy --no-install-recommends $missing
