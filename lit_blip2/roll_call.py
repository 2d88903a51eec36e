"""Connects ranks from their first seconds, before there is a process group, so that all of them end if one does.

Without it, if one ended while it imports, builds its model or reads its data, the others would wait for half an hour.
The first rank listens. The others connect in the background, as soon as they can. The system closes a connection when
its process dies. A rank sends its news to the first one, which passes it on to all. torchrun does all this by itself.
`lit/watch.py` takes over when the callbacks are set up.
"""

import contextlib
import json
import multiprocessing
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from lit_blip2.complaints import reason
from lit_blip2.refusals import refusal
from lit_blip2.terminal import say

KEY = "lit_blip2/roll_call"  # in the store: the port, the token, and what the first rank is called
PARENT = "LIT_BLIP2_PARENT"  # environment variable: id of the process that starts the others, if Lightning does
SETTLE_SECONDS = 5.0  # how long a rank that hears of another's end may still tell an error of its own
NEWS_SECONDS = 3.0  # how much later than a collective's error the news of a rank's end may come
COME_SECONDS = 30.0  # how long a rank that ends by an error tries to reach the first one to say so
LINGER_SECONDS = 5.0  # how long the first rank, ending by an error, waits for others, to tell them
LONGEST = 300  # characters of an error
# Seconds of silence before a machine is asked whether it is there, between two questions, and how many go unanswered.
KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}

_current: "RollCall | None" = None


class RollCall:
    """This process's connections to the other ranks of its command.

    Args:
        who: what others call this rank. is_first: whether it is the first, which listens. address, port: of torch's
        store on the first rank, which this class shares. parent: id of the process that must live on, if Lightning
        started this one.
    """

    def __init__(self, who: str, is_first: bool, address: str, port: int, parent: int | None = None):
        self.who, self.is_first, self.place, self.parent = who, is_first, (address, port), parent
        self.peers: dict[socket.socket, str] = {}
        self.gone = ""
        self.left, self.connected, self.lingers = threading.Event(), threading.Event(), ""
        os.register_at_fork(after_in_child=self._close)  # loader processes outlive a killed rank a little
        threading.Thread(target=self._watch, name="roll-call", daemon=True).start()

    def _watch(self) -> None:
        """Watch until a rank is gone, or this one has left."""
        if self.parent is not None:
            while os.getppid() == self.parent:
                if self.left.wait(0.5):
                    return
            return self._end(f"rank 0 (process {self.parent}) is gone: it was killed")
        with contextlib.suppress(OSError, RuntimeError), selectors.DefaultSelector() as selector:
            server = self._listen() if self.is_first else None
            selector.register(self._connect() if server is None else server, selectors.EVENT_READ)
            self.connected.set()
            while self.lingers or not self.left.is_set():
                for key, _ in selector.select(timeout=0.5):
                    if key.fileobj is server:
                        if peer := self._accept(server.accept()[0]):
                            selector.register(peer, selectors.EVENT_READ)
                        continue
                    said = read_message(key.fileobj)
                    if said.get("bye") or self.left.is_set():
                        selector.unregister(key.fileobj)
                    else:
                        return self._end(said.get("gone") or f"{self.peers[key.fileobj]} is gone: it was killed")

    def _store(self) -> Any:
        """torch's store, at the address where the process group will look for it."""
        from torch.distributed import TCPStore  # takes seconds, which --help saves

        address, port = self.place
        ways = {"timeout": timedelta(hours=1), "wait_for_workers": False, "multi_tenant": True}
        return TCPStore(address, port, is_master=self.is_first, **ways)

    def _listen(self) -> socket.socket:
        address, self.token = self.place[0], secrets.token_hex(16)
        local = address in ("localhost", "127.0.0.1")
        server = socket.create_server((address if local else "", 0), backlog=1024)
        self.store = self._store()  # lives as long as this process
        self.store.set(KEY, json.dumps([server.getsockname()[1], self.token, self.who]))
        return server

    def _accept(self, peer: socket.socket) -> socket.socket | None:
        """Take the connection of a rank, which knows the token; close any other."""
        peer.settimeout(30)
        said = read_message(peer)
        if secrets.compare_digest(str(said.get("token")).encode(), self.token.encode()):
            keep_alive(peer)
            self.peers[peer] = str(said.get("who"))
            if self.lingers:
                send_message(peer, {"gone": self.lingers})
            return peer
        peer.close()
        return None

    def _connect(self) -> socket.socket:
        port, token, first = json.loads(self._store().get(KEY))
        peer = socket.create_connection((self.place[0], port), 30)
        keep_alive(peer)
        self.peers[peer] = first
        send_message(peer, {"token": token, "who": self.who})
        return peer

    def _end(self, gone: str) -> None:
        """Tell the others and the user, and end this process if it does not end by itself."""
        self.gone = gone
        self._tell({"gone": gone})
        if not self.left.wait(SETTLE_SECONDS):
            self.stop()

    def stop(self) -> None:
        """Print who is gone, on one rank, and end this process."""
        if self.is_first or self.gone.startswith("rank 0 "):
            say(f"error: {self.gone}. The others end too", error=True)
        stop()

    def heard(self) -> bool:
        """Whether a rank is gone. Waits a little: the news may come later than the error that it explains."""
        until = time.monotonic() + NEWS_SECONDS
        while not self.gone and self.peers and time.monotonic() < until:
            time.sleep(0.05)
        return bool(self.gone)

    def leave(self, why: str | None = None) -> None:
        """Stop watching, and tell the others that this rank's end is expected. why: its error, which ends the
        others."""
        if self.left.is_set():
            return
        self.left.set()
        if why is None:
            return self._tell({"bye": True})
        gone = f"{self.who} has ended: {why[:LONGEST]}"
        if self.is_first:
            self.lingers = gone
        self.connected.wait(COME_SECONDS)
        self._tell({"gone": gone})
        if self.is_first:  # others may still be on their way
            time.sleep(LINGER_SECONDS)

    def _close(self) -> None:
        for peer in list(self.peers):
            peer.close()

    def _tell(self, message: dict[str, Any]) -> None:
        for peer in list(self.peers):
            send_message(peer, message)


@contextlib.contextmanager
def answered() -> Iterator[None]:
    """Context of a command with several ranks. A rank that ends with an error tells the others. If a rank is gone, the
    errors that this causes on other ranks are not shown."""
    global _current
    _current = _of_this_process()
    try:
        yield
    except BaseException as error:
        if _current is not None and not (isinstance(error, SystemExit) and error.code in (0, None)):
            said = refusal(error)
            if said is None and isinstance(error, RuntimeError) and not _current.left.is_set() and _current.heard():
                _current.stop()
            name = "status" if isinstance(error, SystemExit) else f"{type(error).__name__}:"
            _current.leave(reason(said or f"{name} {error}"))
        raise
    finally:
        over()


def over() -> None:
    """End the roll call: all ranks have come, or this one has nothing left to do."""
    if _current is not None:
        _current.leave()


def _of_this_process() -> RollCall | None:
    """The roll call of this process, by the environment that it was started in. None for a single process, or under
    torchrun."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return None
    process = f"{socket.gethostname()}, process {os.getpid()}"
    if "LOCAL_RANK" in os.environ:
        node, local = int(os.environ.get("NODE_RANK", 0)), int(os.environ["LOCAL_RANK"])
        who = f"rank {local}" + (f" of node {node}" if node else "") + f" ({process})"
        if os.environ.get(PARENT) == str(os.getppid()):
            return RollCall(who, False, "", 0, parent=os.getppid())
        address, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), os.environ.get("MASTER_PORT")
        return RollCall(who, not (node or local), address, int(port)) if port else None
    os.environ[PARENT] = str(os.getpid())
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        from lightning.fabric.plugins.environments import SLURMEnvironment

        if SLURMEnvironment.detect():
            rank, cluster = int(os.environ["SLURM_PROCID"]), SLURMEnvironment()
            return RollCall(f"rank {rank} ({process})", rank == 0, cluster.main_address, cluster.main_port)
    return None


def keep_alive(peer: socket.socket) -> None:
    """Make the system notice if the machine at the other end vanishes."""
    peer.setblocking(True)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        if hasattr(socket, name):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def send_message(peer: socket.socket, message: dict[str, Any]) -> None:
    """Send a message, unless the connection has ended."""
    with contextlib.suppress(OSError):
        peer.sendall(json.dumps(message).encode() + b"\n")


def read_message(peer: socket.socket) -> dict[str, Any]:
    """The next message; {} if the connection has ended."""
    said = b""
    with contextlib.suppress(OSError):
        while not said.endswith(b"\n") and (more := peer.recv(1)):  # another message may stand behind it
            said += more
    return json.loads(said) if said.endswith(b"\n") else {}


def stop() -> None:
    """End this process and those that it started, at once: the main thread may be in a collective that never ends."""
    for child in multiprocessing.active_children():
        child.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
