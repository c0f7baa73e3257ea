#!/bin/sh
# Install what boots lab hosts that are virtual machines: QEMU 10 or newer, from Debian; on Debian 12 from its backports. Prints `changed`.
set -eu

version=$(qemu-system-x86_64 --version 2>/dev/null | sed -n 's/^QEMU emulator version \([0-9]*\)\..*/\1/p')
[ "${version:-0}" -lt 10 ] || exit 0

# The machine's own sources stay as they are.
sources=$(mktemp)
trap 'rm -f "$sources"' EXIT
cat /etc/apt/sources.list >>"$sources" 2>/dev/null || :
release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
target=$release
if [ "$release" = bookworm ]; then
	target=bookworm-backports
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $target main" >>"$sources"
fi
chmod 0644 "$sources"
apt-get -q -o "Dir::Etc::SourceList=$sources" update >&2
DEBIAN_FRONTEND=noninteractive apt-get -qy -o "Dir::Etc::SourceList=$sources" install --no-install-recommends -t "$target" e2fsprogs qemu-system-x86 >&2
echo changed
