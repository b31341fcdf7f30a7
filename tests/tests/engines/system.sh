# Runs as the first process of new mount, network and process namespaces: makes a root of its own over the tree $1, with
# the binary under test $2 in it, and stays until its standard input ends. Then the kernel removes all that it holds.
set -e
lower=$1 gantry=$2 place=$3 cgroups=$4
ip link set lo up
mount -t tmpfs tmpfs "$place"
cd "$place"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=$lower,upperdir=upper,workdir=work" root
cd root

# Nothing of an engine that the machine itself may have: neither its state nor its configuration.
rm -rf etc/docker etc/containerd etc/containers/containers.conf
for directory in run tmp opt/engines var/lib/containers var/lib/containerd var/lib/docker; do
    mkdir -p "$directory"
    mount -t tmpfs -o mode=755 tmpfs "$directory"
done
chmod 1777 tmp
mount -t proc proc proc
mount -t sysfs sysfs sys
case $cgroups in
    as-here) mount --rbind /sys/fs/cgroup sys/fs/cgroup ;;
    version-2) mount -t cgroup2 cgroup2 sys/fs/cgroup ;;
esac
mount --rbind /dev dev

# The other runtimes only refuse: what runs here was made by ours. dockerd wants to find one, or does not start.
printf '#!/bin/sh\nexit 99\n' > opt/engines/refuse
chmod 755 opt/engines/refuse
for runtime in usr/sbin/runc usr/bin/crun; do
    if [ -e "$runtime" ]; then mount --bind opt/engines/refuse "$runtime"; fi
done
: > opt/engines/gantry
mount --bind "$gantry" opt/engines/gantry
ln -s gantry opt/engines/gantry-runtime

mkdir -p .before
pivot_root . .before
umount -l .before
cd /
# As systemd does.
mount --make-rshared /
echo ready
# Not `exec`: the shell reaps the processes whose parents have gone.
cat
exit
