"""`fanout relay`: its errors, its schema, and a process without an admin port."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fanout.relay.config import schema_text
from tests.support.cli import invoke, running
from tests.support.ports import free_port


@pytest.fixture
def relay_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("relay.yaml")
    path.write_text("service: a\ningresses:\n  - listen: udp://:5004\n    to_port: 7\n")
    return path


def test_a_bad_file_is_one_sentence(relay_yaml: Path) -> None:
    relay_yaml.write_text("service: a\ningresses:\n  - listen: mcast://10.0.0.7:5001@eth1\n")
    said = invoke("relay", "--config", "relay.yaml").assert_one_sentence(2)
    assert said.startswith("fanout: relay.yaml, line 3: ingress 'mcast://10.0.0.7:5001@eth1': group must be")


def test_the_schema_is_printed() -> None:
    run = invoke("relay", "--schema")
    assert (run.code, run.out, run.err) == (0, schema_text(), "")
    assert json.loads(run.out)["required"] == ["ingresses"]


def test_a_relay_of_the_command_line_runs_and_stops(tmp_path: Path) -> None:
    ingress = f"udp://127.0.0.1:{free_port()}"
    with running(tmp_path, "relay", "-s", "127.0.0.1:9", "--listen", ingress, "--admin-port", "0") as relay:
        relay.wait_until(lambda: "relay_started" in relay.out)
        assert relay.stop()[::2] == (0, "")
