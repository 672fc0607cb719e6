#!/bin/busybox sh
# The guest's first process: mounts, modules, then commands from the second serial line.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp
# A module takes its parameters from the kernel's command line, as one that is built in does: NAME.PARAMETER=VALUE.
for module in $(cat /modules/order); do
    insmod "/modules/$module" $(tr ' ' '\n' </proc/cmdline | sed -n "s/^${module%.ko}\.//p")
done
ip link set lo up
exec </dev/ttyS1 >/dev/ttyS1
stty raw -echo
echo "@ ready"
while read -r line; do
    echo "$line" | xxd -r -p >/tmp/command
    sh /tmp/command >/tmp/output 2>&1 </dev/null
    status=$?
    head -c 262144 /tmp/output >/tmp/answer
    echo "@ $status $(stat -c %s /tmp/answer)"
    cat /tmp/answer
done
