#!/bin/busybox sh
# The first process of the virtual machine: mounts what a machine has, loads the modules, runs the suites and says on the
# second serial line what became of them. The harness writes /vm/suites: calls of `suite` below.

if [ "$1" != moved ]; then
    # pivot_root(2) refuses the kernel's first file system: put it on top of itself, which makes it an ordinary mount.
    /bin/busybox mkdir -p /mnt
    /bin/busybox mount --bind / /mnt
    cd /mnt
    /bin/busybox mount --move . /
    exec /bin/busybox chroot . /init moved
fi

export PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin HOME=/root GANTRY_SKIPS=/vm/skips RUST_BACKTRACE=0
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
# A workspace below /tmp was packed there.
[ -n "$(ls /tmp)" ] || mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /run/lock /var/lib /var/tmp /root
ln -sf /proc/self/mounts /etc/mtab
# As systemd leaves it on every machine of today.
mount --make-rshared /
ip link set lo up
hostname gantry-vm

exec 3>/dev/ttyS1
say() { echo "@vm $*" >&3; }

while read -r module; do
    insmod "$module" || say "note module $module cannot be loaded"
done </vm/modules
# Tests work on a file system as machines have it: a tmpfs of this age takes no id mappings.
# It lies in memory, which what is deleted gives back.
mkdir -p /scratch
truncate -s 1G /vm/scratch.ext4
mkfs.ext4 -q -E lazy_itable_init=1 /vm/scratch.ext4 && mount -o loop,discard /vm/scratch.ext4 /scratch && rmdir /scratch/lost+found ||
    say "note /scratch is no ext4"
chmod 1777 /scratch
export TMPDIR=/scratch
: >"$GANTRY_SKIPS"

# suite NAME SECONDS DIRECTORY PROGRAM [ARGUMENT…]
suite() {
    name=$1 seconds=$2 directory=$3
    shift 3
    say "begin $name"
    started=$(cut -d' ' -f1 /proc/uptime)
    cd "$directory"
    timeout -s KILL "$seconds" "$@" </dev/null >&3 2>&3
    code=$?
    cd /
    # What one suite leaves, the next one would lack. The locks of the places of system tests are for good.
    rm -f /scratch/gantry-tests/*.lock
    rmdir /scratch/gantry-tests 2>/dev/null
    left=$(ls -A /scratch)
    [ -z "$left" ] || { say "left" $left; rm -rf /scratch/* /scratch/.[!.]*; }
    say "end $name $code $started $(cut -d' ' -f1 /proc/uptime)"
    while read -r line; do say "skip $line"; done <"$GANTRY_SKIPS"
    : >"$GANTRY_SKIPS"
}

say "ready $(uname -r) $(cut -d' ' -f1 /proc/uptime)"
. /vm/suites
say "done"
sync
poweroff -f
