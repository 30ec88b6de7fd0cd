"""Where the nodes of a cell meet: an address of the first node that every other one has reached.

Host names may not resolve, and a node may have networks that others do not see. So the worker listens, every
node tries each of its addresses, and the first that all have reached is used.

ranks/beacon.json    addresses to try, the port, and a word by which the worker is recognised
      reach-<n>.json what node n found: the network interface by which it reached each address, or the error
      meeting.json   the address and port that were chosen
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import json
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from orch_core.files import dumps, write_atomic

MEET_SECONDS = 45.0  # that nodes get to try the addresses: the reason of a failure is known within a minute
TRY_SECONDS = 5.0  # for one address
POLL_SECONDS = 0.1
SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface


class Unreachable(Exception):  # noqa: N818  # its words say what was tried
    """No address of the first node is reached by all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Where rank 0 waits for the others."""

    address: str
    port: int


HERE = "127.0.0.1"  # of a cell whose processes are all on one node


def variables(interface: str) -> dict[str, str]:
    """Have gloo use an interface, unless the user has chosen one: it would use that of the host's name."""
    return {} if "GLOO_SOCKET_IFNAME" in os.environ or not interface else {"GLOO_SOCKET_IFNAME": interface}


def interfaces() -> dict[str, str]:
    """IPv4 addresses of this machine by network interface, the loopback last."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without an address
                packed = fcntl.ioctl(any_socket, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found[name] = socket.inet_ntoa(packed[20:24])
    return dict(sorted(found.items(), key=lambda pair: pair[1].startswith("127.")))


def candidates(interface: str | None) -> list[str]:
    """Addresses of this node to try: that of `interface`, else its name and that of every interface."""
    known = interfaces()
    if interface and interface not in known:
        have = ", ".join(known)
        message = f"{_node()} has no network interface {interface} with an address; it has {have}"
        raise Unreachable(message)
    return [known[interface]] if interface else [socket.gethostname(), *known.values()]


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


@contextlib.contextmanager
def beacon(folder: Path, interface: str | None) -> Iterator[int]:
    """Listen on a free port, and write for the nodes where; raises Unreachable without an address."""
    addresses, word = candidates(interface), secrets.token_hex(8)
    with socket.create_server(("", 0)) as server:
        port = int(server.getsockname()[1])
        threading.Thread(target=_answer, args=(server, word), daemon=True).start()
        document = {"node": _node(), "addresses": addresses, "port": port, "word": word}
        write_atomic(folder / "beacon.json", dumps(document))
        yield port
        server.shutdown(socket.SHUT_RDWR)  # ends the accept of the thread


def _answer(server: socket.socket, word: str) -> None:
    """Send the word to whoever connects; the caller closes first, so that the port is free at once."""
    with contextlib.suppress(OSError):
        while True:
            caller, _ = server.accept()
            with contextlib.suppress(OSError), caller:
                caller.settimeout(TRY_SECONDS)
                caller.sendall(word.encode())
                caller.recv(1)


def try_addresses(folder: Path, node: int) -> None:
    """Try every address of the first node from this one, and write down what was found."""
    told = json.loads((folder / "beacon.json").read_text(encoding="utf-8"))
    with concurrent.futures.ThreadPoolExecutor(len(told["addresses"])) as pool:
        found = pool.map(lambda address: _reach(address, told["port"], told["word"]), told["addresses"])
        report = {"node": _node(), "found": dict(zip(told["addresses"], found, strict=True))}
    write_atomic(folder / f"reach-{node}.json", dumps(report))


def _reach(address: str, port: int, word: str) -> dict[str, str]:
    """The interface of this machine by which an address is reached, or the error."""
    try:
        with socket.create_connection((address, port), timeout=TRY_SECONDS) as call:
            said = call.recv(len(word)).decode("ascii", "replace")
            here = str(call.getsockname()[0])
    except OSError as error:
        return {"error": str(error.strerror or error)}
    if said != word:
        return {"error": "another program answers"}
    return {"interface": next((name for name, one in interfaces().items() if one == here), "")}


def meet(folder: Path, nodes: int, port: int, should_stop: Callable[[], bool]) -> Meeting | None:
    """Choose the address once every node has tried; None if it should stop first. Raises Unreachable."""
    end = time.monotonic() + MEET_SECONDS
    while len(reports := _reports(folder)) < nodes:
        if should_stop() or any(folder.glob("failed-*")):
            return None
        if time.monotonic() > end:
            message = f"{nodes - len(reports)} of {nodes} nodes did not report within {MEET_SECONDS:.0f} s"
            raise Unreachable(message)
        time.sleep(POLL_SECONDS)
    meeting = Meeting(address=chosen(reports), port=port)
    write_atomic(folder / "meeting.json", dumps(asdict(meeting)))
    return meeting


def _reports(folder: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("reach-*.json"))]


def chosen(reports: Sequence[Mapping[str, object]]) -> str:
    """The first address that every node has reached; raises Unreachable with what each of them found."""
    found = {str(report["node"]): report["found"] for report in reports}
    addresses = next(iter(found.values()))
    errors: dict[str, str] = {}
    for address in addresses:  # type: ignore[attr-defined]
        failed = {
            node: one[address]["error"]  # type: ignore[index]
            for node, one in found.items()
            if "error" in one[address]  # type: ignore[index]
        }
        if not failed:
            return str(address)
        node, error = next(iter(failed.items()))
        errors[address] = f"{address} ({error}, from {node})"
    message = "no address of the first node is reached by every node of the cell: " + "; ".join(
        errors.values()
    )
    raise Unreachable(message)


def meeting_of(folder: Path, node: int) -> tuple[Meeting, str] | None:
    """Where to meet, and the interface by which this node gets there; None until that has been chosen."""
    try:
        meeting = Meeting(**json.loads((folder / "meeting.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    report = json.loads((folder / f"reach-{node}.json").read_text(encoding="utf-8"))
    return meeting, report["found"][meeting.address]["interface"]
