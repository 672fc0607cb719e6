"""Opens tap interfaces on a bridge in this network namespace and hands their descriptors over.

Arguments: a unix socket that listens, then the names. Nobody but the bench speaks here: IPv6 and multicast snooping are off.
"""

import fcntl
import os
import socket
import struct
import subprocess
import sys

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


def opened(name):
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return tap


def ip(words):
    subprocess.run(["ip", "link"] + words.split(), check=True)


def main(path, names):
    for which in "all", "default":
        with open(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6", "w") as file:
            file.write("1")
    ip("add br0 type bridge mcast_snooping 0")
    taps = [opened(name) for name in names]
    for name in names:
        ip(f"set {name} master br0 up")
    ip("set br0 up")
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(path)
    socket.send_fds(peer, [b"t"], taps)
    peer.recv(1)


main(sys.argv[1], sys.argv[2:])
