#!/bin/sh
# A lab host is privileged, and only net.* has a namespace: what it sets of the other sysctls, it sets on this machine.
# `sysctl.sh save FILE` notes them all before the first lab boots, `sysctl.sh restore FILE` puts back what differs after the last.
set -eu

values() {
	# Left out: what the kernel moves by itself, and files that are triggers rather than values.
	find /proc/sys/kernel /proc/sys/vm /proc/sys/fs /proc/sys/dev /proc/sys/abi /proc/sys/user /proc/sys/debug \
		-type f -perm -200 -perm -400 ! -path '*/binfmt_misc/*' ! -path '*/random/*' \
		! -name ns_last_pid ! -name '*_next_id' ! -name drop_caches ! -name compact_memory ! -name numa_zonelist_order \
		2>/dev/null | sort | while read -r key; do
		if value=$(cat "$key" 2>/dev/null); then
			printf '%s=%s\n' "$key" "$(printf %s "$value" | tr '\n' ' ')"
		fi
	done
}

case $1 in
save)
	[ -e "$2" ] || { values >"$2.partial" && mv "$2.partial" "$2" && echo changed; }
	;;
restore)
	[ -e "$2" ] || exit 0
	values | diff "$2" - | sed -n 's/^< //p' | while IFS='=' read -r key value; do
		printf '%s\n' "$value" 2>/dev/null >"$key" || echo "cannot put back $key to $value: only a reboot does" >&2
	done
	rm "$2"
	echo changed
	;;
esac
