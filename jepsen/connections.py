"""The TCP connections of a process, and how to cut them: both ends see a reset.

The kernel does it (SOCK_DESTROY, what `ss --kill` uses); it takes CAP_NET_ADMIN.
"""

import contextlib
import dataclasses
import errno
import os
import pathlib
import re
import socket
import struct

SOCK_DIAG = 4  # protocol of AF_NETLINK
SOCK_DESTROY = 21
NLMSG_ERROR = 2
ACKNOWLEDGED_REQUEST = 5
ESTABLISHED = "01"
TABLES = {"tcp": socket.AF_INET, "tcp6": socket.AF_INET6}


@dataclasses.dataclass(frozen=True)
class Connection:
    family: int
    local: tuple  # (address as the kernel's bytes, port)
    remote: tuple

    def __str__(self):
        return f"{self.local[1]}-{self.remote[1]}"


def _end(text):
    address, port = text.split(":")
    words = re.findall("." * 8, address)
    raw = b"".join(struct.pack("=I", int(w, 16)) for w in words)
    return raw.ljust(16, b"\0"), int(port, 16)


def _established():
    """{inode: Connection} of this network namespace."""
    found = {}
    for table, family in TABLES.items():
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == ESTABLISHED:
                    found[int(words[9])] = Connection(family, _end(words[1]), _end(words[2]))
    return found


def of_process(pid):
    """Established connections; none: it is gone, or has none."""
    inodes = set()
    with contextlib.suppress(OSError):
        for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(fd)):
                    inodes.add(int(match[1]))
    return [c for inode, c in sorted(_established().items()) if inode in inodes]


def cut(connection):
    """Returns whether it was there and is cut. OSError: the kernel does not let us."""
    ids = struct.pack(">HH", connection.local[1], connection.remote[1])
    ids += (
        connection.local[0]
        + connection.remote[0]
        + struct.pack("=III", 0, ~0 & 0xFFFFFFFF, ~0 & 0xFFFFFFFF)
    )
    body = struct.pack("=BBBBI", connection.family, socket.IPPROTO_TCP, 0, 0, 1 << 1) + ids
    head = struct.pack("=IHHII", 16 + len(body), SOCK_DESTROY, ACKNOWLEDGED_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, SOCK_DIAG) as s:
        s.send(head + body)
        reply = s.recv(4096)
    kind, code = struct.unpack_from("=H", reply, 4)[0], struct.unpack_from("=i", reply, 16)[0]
    assert kind == NLMSG_ERROR, kind
    if code in (0, -errno.ENOENT):
        return code == 0
    raise OSError(-code, os.strerror(-code))


def possible():
    """Whether this process may cut connections here: tried on one of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as mine:
            to = (socket.inet_aton("127.0.0.1").ljust(16, b"\0"), server.getsockname()[1])
            try:
                return cut(Connection(socket.AF_INET, (to[0], mine.getsockname()[1]), to))
            except OSError:
                return False
