#!/bin/sh
# Build the root file system of a lab host from Debian's own archive: image.sh RELEASE FLAVOUR FILE
# A `host` is what a cloud provider hands over: Debian, sshd, sudo and Python. `acme` adds Pebble, DNS and git; `vm` a kernel with what it
# recommends, and a network. FILE is a tarball; for `vm` an ext4 file system, beside which go the kernel and the initrd that boot it.
set -eu

release=$1 flavour=$2 file=$3
here=$(dirname "$(readlink -f "$0")")
packages=systemd,systemd-sysv,dbus,libpam-systemd,openssh-server,sudo,python3,ca-certificates,iproute2,procps,iputils-ping
if [ "$flavour" = acme ]; then
	packages=$packages,pebble,dnsmasq-base,git
fi
format=tar
if [ "$flavour" = vm ]; then
	packages=$packages,linux-image-cloud-amd64,apparmor,e2fsprogs
	format=directory
fi

partial=$file.$$
trap 'rm -rf "$partial" "$partial.ext4"' EXIT
# shellcheck disable=SC2016 # the hooks are for the shell that mmdebstrap runs them in
mmdebstrap --quiet --format=$format --variant=minbase --include="$packages" \
	--customize-hook="rm -f \"\$1\"/etc/apt/sources.list \"\$1\"/etc/ssh/ssh_host_*" \
	--customize-hook="sed s/RELEASE/$release/g '$here/image/debian.sources' >\"\$1\"/etc/apt/sources.list.d/debian.sources" \
	--customize-hook="cp -r '$here/image/host/etc' \"\$1\"" \
	--customize-hook="if [ $flavour = acme ]; then cp -r '$here/image/acme/etc' \"\$1\"; fi" \
	--customize-hook="if [ $flavour = vm ]; then chroot \"\$1\" systemctl enable systemd-networkd.service; chroot \"\$1\" apt-mark hold linux-image-cloud-amd64; fi" \
	--customize-hook="chmod 0440 \"\$1\"/etc/sudoers.d/90-cloud-init-users" \
	--customize-hook='chroot "$1" useradd --create-home --shell /bin/bash ops' \
	--customize-hook='chroot "$1" sh -c "cd /etc/systemd/system && systemctl enable lab-*.service"' \
	--customize-hook='chroot "$1" systemctl mask systemd-binfmt.service console-getty.service getty@tty1.service' \
	"$release" "$partial" \
	"deb http://deb.debian.org/debian $release main" \
	"deb http://deb.debian.org/debian $release-updates main" \
	"deb http://deb.debian.org/debian-security $release-security main"
if [ "$flavour" = vm ]; then
	cp --dereference "$partial/vmlinuz" "${file%.*}.vmlinuz"
	cp --dereference "$partial/initrd.img" "${file%.*}.initrd"
	mke2fs -q -t ext4 -d "$partial" "$partial.ext4" 10G
	rm -rf "$partial"
	partial=$partial.ext4
fi
mv "$partial" "$file"
