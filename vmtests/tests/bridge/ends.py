"""Holds the far ends of wires: sends frames into them and collects what comes out.

Arguments: a socket to serve, then the interfaces. A request is a line of JSON:
{"send": [[END, HEX], ...], "want": [COUNT, ...], "limit_ms": N}: sends the frames, waits until each end has got as many
frames as wanted, at most so long, and answers with all that came: [[HEX, ...], ...]. With "repeat": [END, COUNT, SEED],
frames of as many random sources to random stations are sent first.
"""

import json
import random
import select
import socket
import struct
import sys
import time

SOL_PACKET, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING, ETH_P_ALL = 263, 8, 23, 3
VLAN_VALID, TPID_VALID = 0x10, 0x40


def opened(name):
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    end.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    end.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    end.bind((name, ETH_P_ALL))
    end.setblocking(False)
    return end


def arrived(end):
    """What has come; tags that the kernel took out of the frame are put back."""
    frames = []
    while True:
        try:
            frame, ancillary, _, _ = end.recvmsg(70000, 128)
        except BlockingIOError:
            return frames
        for _, kind, data in ancillary:
            if kind == PACKET_AUXDATA:
                status, _, _, _, _, tci, tpid = struct.unpack("=IIIHHHH", data[:20])
                if status & VLAN_VALID:
                    tpid = tpid if status & TPID_VALID else 0x8100
                    frame = frame[:12] + struct.pack("!HH", tpid, tci) + frame[12:]
        frames.append(frame.hex())


def storm(end, count, seed):
    numbers = random.Random(seed)
    end.setblocking(True)
    for _ in range(count):
        pair = numbers.randbytes(12)
        end.send(bytes([2]) + pair[:5] + bytes([2]) + pair[5:10] + b"\x88\xb5" + bytes(46))
    end.setblocking(False)


def serve(path, names):
    ends = [opened(name) for name in names]
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    print("serving", flush=True)
    stream = server.accept()[0].makefile("rw")
    for line in stream:
        request = json.loads(line)
        if "repeat" in request:
            at, count, seed = request["repeat"]
            storm(ends[at], count, seed)
        for at, frame in request["send"]:
            ends[at].send(bytes.fromhex(frame))
        got = [[] for _ in ends]
        limit = time.monotonic() + request["limit_ms"] / 1000
        while True:
            for frames, end in zip(got, ends):
                frames += arrived(end)
            left = limit - time.monotonic()
            if left <= 0 or all(len(frames) >= count for frames, count in zip(got, request["want"])):
                break
            select.select(ends, [], [], left)
        stream.write(json.dumps(got) + "\n")
        stream.flush()


serve(sys.argv[1], sys.argv[2:])
