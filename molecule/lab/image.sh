#!/bin/sh
# Build the root file system of a lab host from Debian's own archive: image.sh RELEASE FLAVOUR TARBALL
# A `host` is what a cloud provider hands over: Debian, sshd, sudo and Python. `acme` adds Pebble, DNS and git.
set -eu

release=$1 flavour=$2 tarball=$3
here=$(dirname "$(readlink -f "$0")")
packages=systemd,systemd-sysv,dbus,libpam-systemd,openssh-server,sudo,python3,ca-certificates,iproute2,procps,iputils-ping
if [ "$flavour" = acme ]; then
	packages=$packages,pebble,dnsmasq-base,git
fi

partial=$tarball.$$
trap 'rm -f "$partial"' EXIT
# shellcheck disable=SC2016 # the hooks are for the shell that mmdebstrap runs them in
mmdebstrap --quiet --format=tar --variant=minbase --include="$packages" \
	--customize-hook="rm -f \"\$1\"/etc/apt/sources.list \"\$1\"/etc/ssh/ssh_host_*" \
	--customize-hook="sed s/RELEASE/$release/g '$here/image/debian.sources' >\"\$1\"/etc/apt/sources.list.d/debian.sources" \
	--customize-hook="cp -r '$here/image/host/etc' \"\$1\"" \
	--customize-hook="if [ $flavour = acme ]; then cp -r '$here/image/acme/etc' \"\$1\"; fi" \
	--customize-hook="chmod 0440 \"\$1\"/etc/sudoers.d/90-cloud-init-users" \
	--customize-hook='chroot "$1" useradd --create-home --shell /bin/bash ops' \
	--customize-hook='chroot "$1" sh -c "cd /etc/systemd/system && systemctl enable lab-*.service"' \
	--customize-hook='chroot "$1" systemctl mask systemd-binfmt.service console-getty.service getty@tty1.service' \
	"$release" "$partial" \
	"deb http://deb.debian.org/debian $release main" \
	"deb http://deb.debian.org/debian $release-updates main" \
	"deb http://deb.debian.org/debian-security $release-security main"
mv "$partial" "$tarball"
