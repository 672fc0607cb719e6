#!/bin/busybox sh
# First process of a guest. The kernel's command line says who it is and what to do; lines that begin
# with "@" are for the host.
export PATH=/bin LD_LIBRARY_PATH=/lib
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /tmp && mount -t tmpfs tmpfs /tmp
echo "@ booted Linux $(uname -r)"
for module in $(cat /modules/order); do insmod "/modules/$module.ko"; done
for word in $(cat /proc/cmdline); do
    case "$word" in
        demo.*=*) eval "${word#demo.}" ;;
    esac
done
ip link set lo up
ip addr add "$address/24" dev eth0 && ip link set eth0 up || { echo "@ failed no network card"; poweroff -f; }
if [ "$role" = answer ]; then
    sockperf server -i "$address" >/dev/null 2>&1 &
fi
echo "@ up $(ip -o link show eth0 | sed 's/.*ether \([^ ]*\).*/\1/')"
if [ "$role" = server ]; then
    iperf3 -s >/dev/null 2>&1 &
    # The host ends this guest.
    while true; do sleep 60; done
fi
if [ "$role" = answer ]; then
    while true; do sleep 60; done
fi
count=0
until ping -c 1 -W 1 "$peer" >/dev/null 2>&1; do
    count=$((count + 1))
    [ "$count" -lt 60 ] || { echo "@ failed no answer from $peer"; poweroff -f; }
done
if [ "$role" = ask ]; then
    echo "@ ready"
    # The host says when.
    read -r _ </dev/console
    # More than any guest does in a second, and little enough: it takes 16 bytes of memory for each request that there may be.
    rate=100000
    # The server may not have begun to listen.
    for try in 1 2; do
        sockperf ping-pong -i "$peer" -m 64 -t "$seconds" --mps $rate --full-rtt --no-rdtsc 2>&1 && break
    done
    echo "@ done"
    while true; do sleep 60; done
fi
echo "@ begin ping"
ping -c 10 -i 0.2 "$peer"
for direction in "" -R; do
    echo "@ begin iperf3$direction"
    iperf3 -c "$peer" -t 3 -i 0 -f m $direction 2>&1 || iperf3 -c "$peer" -t 3 -i 0 -f m $direction 2>&1
done
echo "@ begin checksums"
awk '/^Tcp: [0-9]/ { print "TCP checksum errors: " $NF }' /proc/net/snmp
echo "@ done"
sync
while true; do sleep 60; done
