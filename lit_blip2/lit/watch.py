"""Makes all ranks notice at once if one of them dies, whatever they wait for.

Each rank keeps a connection to the first one. The system closes it when a process dies, and within half a
minute when a machine does. A thread waits for that, because the main thread may wait in a collective, where no error
reaches it. Nothing is sent while all goes well.
"""

import contextlib
import os
import secrets
import selectors
import socket
import threading
import time
from typing import Any, NamedTuple

from lit_blip2.distributed import gather_lists, rank, world_size
from lit_blip2.roll_call import LONGEST, keep_alive, read_message, send_message, stop
from lit_blip2.terminal import say

CONNECT_SECONDS = 30.0
SETTLE_SECONDS = 3.0  # how long a rank that hears of another's error may still tell one of its own
GRACE_SECONDS = 20.0  # how long a rank then has to end by itself, for example to finish a checkpoint


class Gone(NamedTuple):
    """A rank that has ended early. why: its error; empty if it could not tell one."""

    rank: int
    who: str
    why: str = ""

    def __str__(self) -> str:
        how = f"has ended: {self.why}" if self.why else "is gone: it was killed, or its machine was"
        return f"rank {self.rank} of {world_size()} ({self.who}) {how}. The others end too; resume from a checkpoint"


class Watch:
    """This rank's connections to the others. All ranks must create it at the same time. address: the first rank's
    machine."""

    def __init__(self, address: str):
        self.names: dict[int, str] = dict(enumerate(gather_lists([f"{socket.gethostname()}, process {os.getpid()}"])))
        self.peers: dict[socket.socket, int] = {}
        self.gone: Gone | None = None
        self.told, self.left, self.lock = threading.Event(), threading.Event(), threading.Lock()
        self._connect(address)
        os.register_at_fork(after_in_child=self._close)  # loader processes outlive a killed rank a little
        threading.Thread(target=self._listen, name="rank-watch", daemon=True).start()

    def _connect(self, address: str) -> None:
        """Connect the first rank with each of the others. A rank that cannot be reached is not watched."""
        token, server = secrets.token_hex(16), None
        if rank() == 0:
            local = address in ("localhost", "127.0.0.1")
            server = socket.create_server((address if local else "", 0), backlog=world_size())
        port, token = gather_lists([(server and server.getsockname()[1], token)])[0]
        if server is None:
            with contextlib.suppress(OSError):
                peer = socket.create_connection((address, port), CONNECT_SECONDS)
                peer.sendall(f"{token} {rank():8d}".encode())
                self._add(peer, 0)
        reached = sum(gather_lists([bool(self.peers) or rank() == 0]))
        while server is not None and len(self.peers) < reached - 1:
            server.settimeout(CONNECT_SECONDS)
            try:
                self._accept(server.accept()[0], token)
            except TimeoutError:
                break
        if server is not None:
            server.close()

    def _accept(self, peer: socket.socket, token: str) -> None:
        """Take a connection of one of the ranks, which knows the token; close any other."""
        peer.settimeout(CONNECT_SECONDS)
        with contextlib.suppress(OSError):
            said = peer.recv(len(token) + 9, socket.MSG_WAITALL).decode("ascii", "replace")
            if secrets.compare_digest(said[: len(token)].encode(), token.encode()):
                return self._add(peer, int(said[len(token) :]))
        peer.close()

    def _add(self, peer: socket.socket, number: int) -> None:
        keep_alive(peer)
        self.peers[peer] = number

    def _listen(self) -> None:
        """Listen until a rank is gone, or all have left."""
        with selectors.DefaultSelector() as selector:
            for peer in self.peers:
                selector.register(peer, selectors.EVENT_READ)
            while selector.get_map() and not self.left.is_set():
                for key, _ in selector.select(timeout=1.0):
                    said = read_message(key.fileobj)
                    if said.get("bye"):
                        selector.unregister(key.fileobj)
                    elif not self.left.is_set():
                        number = said.get("rank", self.peers[key.fileobj])
                        return self._end(Gone(number, self.names[number], said.get("why", "")))

    def _end(self, gone: Gone) -> None:
        """Tell the others, then the user, and end this process if it does not end by itself."""
        self.gone = gone
        if rank() == 0:
            self._send({"rank": gone.rank, "why": gone.why})
        if gone.why and self.left.wait(SETTLE_SECONDS):
            return
        self.tell()
        if not self.left.wait(GRACE_SECONDS):
            stop()

    def tell(self) -> None:
        """Print once who is gone, on the first of the ranks that are left."""
        with self.lock:
            if not self.told.is_set() and rank() == (1 if self.gone.rank == 0 else 0):
                say(f"error: {self.gone}", error=True)
            self.told.set()

    def heard(self, seconds: float) -> Gone | None:
        """The rank that is gone, or None. Waits up to `seconds`: the news may come later than the error that it
        explains."""
        until = time.monotonic() + seconds
        while self.gone is None and self.peers and time.monotonic() < until:
            time.sleep(0.05)
        return self.gone

    def leave(self, why: str = "") -> None:
        """Stop watching, and tell the others that this rank's end is expected. why: its error, if it must end the
        others."""
        if not self.left.is_set():
            self.left.set()
            self._send({"rank": rank(), "why": why[:LONGEST]} if why else {"bye": True})
            self._close()

    def _send(self, message: dict[str, Any]) -> None:
        for peer in list(self.peers):
            send_message(peer, message)

    def _close(self) -> None:
        for peer in list(self.peers):
            peer.close()
