#!/bin/sh
# Lab hosts that are virtual machines. Each has a folder, with its disk, its console's output and its process id.
# `vm.sh start FOLDER IMAGE BRIDGE MAC KEY` boots one that is off: IMAGE.{ext4,vmlinuz,initrd} are what `image.sh` has made, FOLDER/seed/ is what
# its provider writes into a new disk, BRIDGE the lab's network, KEY its administrator's. `vm.sh stop FOLDER` ends all whose
# folders are in this one.
set -eu

# The machine's network card on this side. The process makes it, and with the process it goes.
tap() {
	echo "lab-$(printf %s "$1" | sha256sum | cut -c1-8)"
}

# A process id that a machine's own boot has given to another is not taken for this one.
runs() {
	[ -e "$1/pid" ] && tr '\0' ' ' 2>/dev/null <"/proc/$(cat "$1/pid")/cmdline" | grep -qF "file=$1/disk,"
}

# A /dev/kvm that opens is not one that runs a kernel: machines in machines have the former alone. This one ends at once, for want of a disk.
accelerator() {
	if timeout 10 qemu-system-x86_64 -nodefaults -display none -no-reboot -machine q35 -accel kvm -cpu max -m 512 \
		-kernel "$1.vmlinuz" -append "panic=-1 quiet" >/dev/null 2>&1; then
		echo kvm
	else
		echo tcg,thread=multi
	fi
}

start() {
	folder=$1 image=$2 bridge=$3 mac=$4 key=$5
	tap=$(tap "$folder")
	if ! runs "$folder"; then
		if [ ! -e "$folder/disk" ]; then
			cp --sparse=always --reflink=auto "$image.ext4" "$folder/disk.partial"
			(cd "$folder/seed" && find ./* -type f -printf 'cd /%h\nrm %f\nwrite %p %f\n' >../seed.debugfs &&
				debugfs -w -f ../seed.debugfs ../disk.partial >../seed.log 2>&1)
			mv "$folder/disk.partial" "$folder/disk"
		fi
		# A reboot starts the kernel of the image again, whatever was installed since. What this machine loses with its power
		# is no matter: so writes need not wait for its disk.
		qemu-system-x86_64 -name "$tap" -nodefaults -display none -daemonize -pidfile "$folder/pid" -serial "file:$folder/console" \
			-machine q35 -accel "$(accelerator "$image")" -cpu max -smp 2 -m 2048 \
			-kernel "$image.vmlinuz" -initrd "$image.initrd" \
			-append "root=/dev/vda rw console=ttyS0 quiet \"LAB_ADMIN_KEY=$key\"" \
			-drive "if=virtio,format=raw,cache=unsafe,discard=unmap,file=$folder/disk," \
			-netdev "tap,id=lab,ifname=$tap,script=no,downscript=no" -device "virtio-net-pci,netdev=lab,mac=$mac,romfile=" >&2
		echo changed
	fi
	ip link set "$tap" master "$bridge" up
}

stop() {
	for folder in "$1"/*; do
		if runs "$folder"; then
			kill -KILL "$(cat "$folder/pid")"
			# A bridge with a card in it would be left behind.
			while [ -e "/sys/class/net/$(tap "$folder")" ]; do sleep 0.1; done
			echo changed
		fi
	done
}

"$@"
