"""Cuts between the nodes of a cluster on loopback, without any privilege.

Every node is reached through relays, for Raft and for gRPC: `members` holds their addresses. Who
connects is found in /proc, so that one node's connections can be cut and another's not; those of
agents and clients never are. A cut holds bytes back in one direction, as a network that drops
packets does: connections stay, and what was held goes on when it is healed.
"""

import asyncio
import contextlib
import os
import pathlib
import socket
import struct
import threading

import grpc

from harness import Cluster, stubs, wait_for

CHUNK = 65536


class Relay:
    """One listening port: what comes in goes to `dst`, and back."""

    def __init__(self, net, dst, address):
        self.net, self.dst = net, dst
        self.host, self.port = address.rsplit(":", 1)

    async def listen(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader, writer):
        ports, to = [writer.get_extra_info(n)[1] for n in ("peername", "sockname")], None
        try:
            src = await self.net.loop.run_in_executor(None, self.net.node_of, *ports)
            await self.net.passable(src, self.dst)
            back, to = await asyncio.open_connection(self.host, self.port)
            # The first end of either direction ends the connection.
            pumps = [
                asyncio.create_task(self._pump(reader, to, src, self.dst)),
                asyncio.create_task(self._pump(back, writer, self.dst, src)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for p in pumps:
                p.cancel()
        except OSError:
            pass  # nobody listens there: the node is down
        finally:
            writer.close()
            if to is not None:
                to.close()

    async def _pump(self, reader, writer, src, dst):
        try:
            while data := await reader.read(CHUNK):
                await self.net.passable(src, dst)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # one end is gone


SOCK_DIAG = 4  # protocol of AF_NETLINK
SOCK_DIAG_BY_FAMILY = 20


def inode_of(local, remote):
    """Of the socket on loopback with these ports; None: not there any more.

    Asks the kernel for this one; /proc/net/tcp, which lists them all, takes milliseconds.
    """
    address = socket.inet_aton("127.0.0.1") + bytes(12)
    ids = (
        struct.pack(">HH", local, remote)
        + address * 2
        + struct.pack("=III", 0, ~0 & 0xFFFFFFFF, ~0 & 0xFFFFFFFF)
    )
    body = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFF) + ids
    head = struct.pack("=IHHII", 16 + len(body), SOCK_DIAG_BY_FAMILY, 1, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, SOCK_DIAG) as s:
        s.send(head + body)
        reply = s.recv(4096)
    if struct.unpack_from("=H", reply, 4)[0] != SOCK_DIAG_BY_FAMILY:
        return None
    # After the header: family, state, timer, retransmits, the ids, five numbers; the last is it.
    return struct.unpack_from("=I", reply, 16 + 4 + 48 + 16)[0]


class Net:
    """The relays of a cluster. cut and heal may be called from any thread."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.cuts = set()
        self.lock = threading.Lock()  # of pids and strangers
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.changed = self._call(self._condition())
        self.members, self.pids, self.strangers = [], [], set()
        self.configs = {n["name"]: f"{n['dir']}/nodelinkd.conf" for n in cluster.config()["nodes"]}
        for n in cluster.config()["nodes"]:
            relays = [Relay(self, n["name"], n[kind]) for kind in ("raft", "grpc")]
            addresses = [self._call(r.listen()) for r in relays]
            self.members.append("/".join([n["name"], str(n["id"]), *addresses]))
        for name in cluster.names():
            self._reroute(name)

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    async def _condition(self):
        return asyncio.Condition()

    async def passable(self, src, dst):
        async with self.changed:
            await self.changed.wait_for(lambda: (src, dst) not in self.cuts)

    def _reroute(self, name):
        """The node is stopped; it listens where it did, and is reached through the relays."""
        path = pathlib.Path(self.configs[name])
        lines = path.read_text().splitlines()
        assert any(l.startswith("members") for l in lines)
        members = f"members = {', '.join(self.members)}"
        mine = [members if l.startswith("members") else l for l in lines]
        path.write_text("\n".join(mine) + "\n")

    def node_of(self, local, remote):
        """Name of the node whose socket has these ports; None: it is no node's."""
        inode = inode_of(local, remote)
        with self.lock:
            pids = list(self._pids())
        for name, pid in pids if inode else []:
            with contextlib.suppress(OSError):
                for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        if os.readlink(fd) == f"socket:[{inode}]":
                            return name
        return None

    def _pids(self):
        """By the command lines: a node connects before its pid is in cluster.json. Looking at a
        process takes long, so a stranger is looked at once."""
        self.pids = [(n, pid) for n, pid in self.pids if self._config_of(pid) == n]
        if len(self.pids) < len(self.configs):
            entries = {e for e in os.listdir("/proc") if e.isdigit()}
            self.strangers &= entries
            for pid in entries - self.strangers:
                name = self._config_of(pid)
                if name is None:
                    self.strangers.add(pid)
                elif name and (name, pid) not in self.pids:
                    self.pids.append((name, pid))
        return self.pids

    def _config_of(self, pid):
        """Name of the node that is this process, None: a stranger; "": may still become one."""
        with contextlib.suppress(OSError):
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"/nodelinkd"):
                return next((n for n, c in self.configs.items() if c.encode() in words), None)
            if words[0].endswith(b"/nodelink"):
                return ""
        return None

    def _set(self, cuts):
        async def change():
            async with self.changed:
                self.cuts = cuts
                self.changed.notify_all()

        self._call(change())

    def cut(self, *pairs):
        """Nothing goes from the first to the second of each pair."""
        self._set(self.cuts | set(pairs))

    def isolate(self, name, inward=True, outward=True):
        others = [n for n in self.cluster.names() if n != name]
        pairs = [(o, name) for o in others if inward] + [(name, o) for o in others if outward]
        self.cut(*pairs)

    def heal(self):
        self._set(set())

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)


def cluster_with_net(**options):
    """A running cluster whose nodes reach each other through relays: (cluster, net)."""
    cluster = Cluster(**options)
    cluster.__enter__()
    try:
        for name in cluster.names():
            cluster.kill(name)
        net = Net(cluster)
        for name in cluster.names():
            cluster.start(name)
        cluster.wait_healthy()
    except BaseException:
        cluster.close(failed=True)
        raise
    return cluster, net


def leader_among(cluster, names):
    """The node of these that leads in the highest term, by their own word."""
    request = stubs()["control"].GetStatusRequest()

    def led():
        said = []
        for name in names:
            client, channel = cluster.stub(name)
            try:
                reply = client.GetStatus(request, timeout=2)
                said.append((reply.term, reply.role == "leader", name))
            except grpc.RpcError:
                pass
            finally:
                channel.close()
        term, leads, name = max(said, default=(0, False, None))
        return name if leads else None

    return wait_for(f"a leader among {names}", led)
