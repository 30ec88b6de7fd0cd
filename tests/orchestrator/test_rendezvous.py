"""Where the nodes of a cell meet: the first address that every node reaches, or a reason that names what was tried."""

import json
import socket
import threading
import time

import pytest

from orch.launching.worker import rendezvous
from orch.launching.worker.rendezvous import Unreachable, beacon, chosen, meet, meeting_of, try_addresses


def test_a_host_name_that_does_not_resolve_is_replaced_by_an_address_that_was_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-host.invalid")
    with beacon(tmp_path, None) as port:
        nodes = [threading.Thread(target=try_addresses, args=(tmp_path, node)) for node in range(3)]
        for node in nodes:
            node.start()
        meeting = meet(tmp_path, 3, port, lambda: False)
        for node in nodes:
            node.join()
    assert meeting.address in rendezvous.interfaces().values()
    found, interface = meeting_of(tmp_path, 2)
    assert found == meeting
    assert rendezvous.interfaces()[interface] == meeting.address
    with socket.create_server((meeting.address, meeting.port)):  # rank 0 can listen there at once
        pass
    report = json.loads((tmp_path / "reach-1.json").read_text())
    assert "error" in report["found"]["no-such-host.invalid"]


def test_the_address_that_only_some_nodes_reach_is_not_used():
    ok, lost = {"interface": "eth0"}, {"error": "timed out"}
    reports = [
        {"node": "gpu1", "found": {"gpu1": ok, "10.0.0.1": ok}},
        {"node": "gpu2", "found": {"gpu1": lost, "10.0.0.1": ok}},
    ]
    assert chosen(reports) == "10.0.0.1"
    reports.append({"node": "gpu3", "found": {"gpu1": ok, "10.0.0.1": {"error": "no route to host"}}})
    with pytest.raises(Unreachable) as caught:
        chosen(reports)
    assert "gpu1 (timed out, from gpu2)" in str(caught.value)
    assert "10.0.0.1 (no route to host, from gpu3)" in str(caught.value)


def greet(server):
    with server.accept()[0] as caller:
        caller.sendall(b"SSH-2.0-" * 9)


def test_a_program_that_answers_in_our_place_is_not_met(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        threading.Thread(target=lambda: greet(stranger), daemon=True).start()
        told = {"node": "n", "addresses": ["127.0.0.1"], "port": stranger.getsockname()[1], "word": "0" * 16}
        (tmp_path / "beacon.json").write_text(json.dumps(told))
        try_addresses(tmp_path, 0)
    found = json.loads((tmp_path / "reach-0.json").read_text())["found"]
    assert found == {"127.0.0.1": {"error": "another program answers"}}


def test_an_interface_that_the_node_lacks_is_named_with_those_it_has():
    with pytest.raises(Unreachable, match=r"has no network interface ib7 .* it has .*lo"):
        rendezvous.candidates("ib7")
    assert rendezvous.candidates("lo") == ["127.0.0.1"]


def test_nodes_that_do_not_report_are_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(rendezvous, "MEET_SECONDS", 0.3)
    began = time.monotonic()
    with beacon(tmp_path, None) as port:
        try_addresses(tmp_path, 0)
        with pytest.raises(Unreachable, match="1 of 2 nodes did not report"):
            meet(tmp_path, 2, port, lambda: False)
        assert meet(tmp_path, 2, port, lambda: True) is None
    assert time.monotonic() - began < rendezvous.TRY_SECONDS + 30


def test_the_interface_of_a_users_shell_is_left_alone(monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert rendezvous.variables("eth0") == {"GLOO_SOCKET_IFNAME": "eth0"}
    assert rendezvous.variables("") == {}
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    assert rendezvous.variables("eth0") == {}
