"""A relay's file: what it says, and that whatever is wrong with it is one sentence with the file and the line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fanout.cli.commands.relay import relay
from fanout.errors import InvalidIngress
from fanout.relay import config
from fanout.relay.config import SIZE_MAX, Config, load, schema_text
from fanout.relay.core.drop_reasons import RelayDrop
from fanout.relay.core.ingress import Ingress
from tests.support.tree import ROOT

FULL = """\
# What a relay forwards.
service: headless-udp
allow_source: [10.0.0.0/8, "fd00::/8"]
limit: 5e3
loop_guard: true

ingresses:
  - listen: mcast://224.0.67.67:5001@eth1
  - listen: udp://0.0.0.0:32546-32549
    service: cameras
    to_port: 40000
    allow_source: []
    limit: 20000
  - {listen: "broadcast://:9999@eth0", service: 'no'}
"""
ONE = "service: a\ningresses:\n  - listen: udp://:5004\n"


@pytest.fixture
def relay_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("relay.yaml")


def loaded(path: Path, text: str | bytes) -> Config:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(str(path))


def refused(path: Path, text: str | bytes) -> str:
    with pytest.raises(InvalidIngress) as caught:
        loaded(path, text)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_a_file_for_a_whole_relay(relay_yaml: Path) -> None:
    allowed = ["10.0.0.0/8", "fd00::/8"]
    assert loaded(relay_yaml, FULL) == Config(
        (
            Ingress.parse("mcast://224.0.67.67:5001@eth1", service="headless-udp", allow_source=allowed, limit=5000.0),
            Ingress.parse("udp://0.0.0.0:32546-32549", service="cameras", to_port=40_000, limit=20_000),
            Ingress.parse("broadcast://:9999@eth0", service="no", allow_source=allowed, limit=5000.0),
        ),
        True,
    )


def test_the_least_that_a_file_says(relay_yaml: Path) -> None:
    least = Config((Ingress.parse("udp://:5004", service="a"),), False)
    assert loaded(relay_yaml, ONE) == least
    assert loaded(relay_yaml, b"\xef\xbb\xbf" + ONE.replace("\n", "\r\n").encode()) == least
    assert loaded(relay_yaml, json.dumps({"ingresses": [{"listen": "udp://:5004", "service": "a"}]})) == least
    assert loaded(relay_yaml, f"---\n{ONE}...\n") == least


def test_what_is_not_quoted_is_what_yaml_1_2_has(relay_yaml: Path) -> None:
    def service_of(text: str) -> str:
        return loaded(relay_yaml, f"service: {text}\ningresses: [{{listen: 'udp://:5004'}}]").ingresses[0].service

    assert [service_of(text) for text in ("no", "on", "2026-01-01", "0x10", "'a'", "! b", "=")] == [
        "no", "on", "2026-01-01", "0x10", "a", "b", "=",
    ]  # fmt: skip
    assert loaded(relay_yaml, f"to_port: 010\n{ONE}").ingresses[0].to_port == 10
    assert loaded(relay_yaml, f"limit: .5\n{ONE}").ingresses[0].limit == 0.5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "relay.yaml is empty"),
        ("# nothing\n\n", "relay.yaml is empty"),
        ("---\n~\n", "relay.yaml is empty"),
        ("- a\n", "line 1: the file must be a mapping with ingresses; got a list of 1"),
        ("service: a\n", "line 1: the file must have ingresses: "),
        ("service: a\ningreses: []\n", "line 2: 'ingreses' is not a key of the file: did you mean ingresses?"),
        ("service: a\ningresses: []\n", "line 2: ingresses must be a list of 1 to 1024 ingresses; got an empty list"),
        ("service: a\ningresses: {}\n", "line 2: ingresses must be a list of 1 to 1024 ingresses; got an empty map"),
        ("service: a\ningresses:\n  - udp://:5004\n", "line 3: an entry of ingresses must be a mapping with listen"),
        ("service: a\ningresses:\n  - to_port: 5\n", "line 3: an entry of ingresses must have listen: "),
        (f"{ONE}    to_prt: 5\n", "line 4: 'to_prt' is not a key of an entry of ingresses: did you mean to_port?"),
        (f"{ONE}    color: red\n",
         "line 4: 'color' is not a key of an entry of ingresses: the keys are listen, service"),
        (f"{ONE}    to_port: 70000\n", "line 4: to_port must be a port from 1 to 65535; got 70000"),
        (f"{ONE}    to_port: '80'\n", "line 4: to_port must be a port from 1 to 65535; got '80'"),
        (f"{ONE}    to_port: true\n", "line 4: to_port must be a port from 1 to 65535; got true"),
        (f"{ONE}    to_port: 80.0\n",
         "line 3: ingress 'udp://:5004': to_port must be a number from 1 to 65,535; got 80.0"),
        (f"{ONE}    limit: 0\n", "line 4: limit must be a number of datagrams a second above 0; got 0"),
        (f"{ONE}    limit: .nan\n", "line 4: limit must be a number of datagrams a second above 0; got '.nan'"),
        (f"{ONE}    limit: 1e999\n", "line 4: limit must be a number of datagrams a second above 0; got inf"),
        (f"{ONE}    limit: {'9' * 5000}\n", "line 4: limit must be a number of datagrams a second above 0"),
        (f"{ONE}    service:\n", "line 4: service must be the name of a headless Service, or a list of"),
        (f"{ONE}    service: 10.0.0.256\n", "line 3: ingress 'udp://:5004': endpoint must be an IP address"),
        (f"{ONE}    allow_source: 10.0.0.0/8\n", "line 4: allow_source must be a list of at most 256 networks"),
        (f"{ONE}    allow_source:\n      - 10.0.0.0/8\n      - 7\n", "line 6: an entry of allow_source must be a net"),
        (f"{ONE}    allow_source: [10.0.0.1/8]\n", "line 3: ingress 'udp://:5004': allowed source must be an"),
        (f"loop_guard: yes\n{ONE}", "line 1: loop_guard must be true or false; got 'yes'"),
        ("ingresses:\n- listen: udp://:5004\n",
         "line 2: ingress 'udp://:5004' must have a service, its own or one for all"),
        ("service: a\ningresses:\n- listen: http://x\n", "line 3: listen must be the URL of an ingress; got 'http://x'"),
        (f"{ONE}  - listen: mcast://10.0.0.7:5001@eth1\n", "line 4: ingress 'mcast://10.0.0.7:5001@eth1': group"),
        (f"{ONE}\n  - listen: udp://:5000-5009\n", "line 5: ingress 'udp://:5000-5009' collides with 'udp://:5004': "),
        (f"{ONE}  - listen: udp://:10000-11023\n",
         "line 4: a relay must listen on at most 1,024 ports, a socket each; 'udp://:10000-11023' makes it 1,025"),
        (f"{ONE}service: b\n", "line 4: duplicate key 'service': first given in line 1"),
        (f"{ONE}    listen: udp://:5005\n", "line 4: duplicate key 'listen': first given in line 3"),
        ("service: &a x\n", "line 1: anchors (&) and aliases (*) are"),
        ("service: a\ningresses:\n  - *a\n", "line 3: anchors (&) and aliases (*) are"),
        ("service: a\n? *a\n: b\n", "line 2: anchors (&) and aliases (*) are"),
        ("service: !!python/object/apply:os.system ['true']\n", "line 1: tags (!) are not supported"),
        ("? [a]\n: b\n", "line 1: a key must be a string"),
        ("a: 1\n---\nb: 2\n", "line 2: a second document begins here"),
        ("a: b\n\tc: d\n", "line 2: not valid YAML: found character '\\t'"),
        ("a: [\n", "line 2: not valid YAML: expected the node content"),
        ("a: 'b\n", "line 1: not valid YAML: found unexpected end of stream"),
        ('a: "\\UFFFFFFFF"\n', "line 1: not valid YAML from here on"),
        (f"%YAML {'9' * 5000}.1\n---\na: b\n", "line 1: not valid YAML from here on"),
        ('a: "\\ud800"\n', "line 1: '\\ud800' has half of a surrogate pair"),
        ("a: b\nc: \x07\n", "line 2: YAML does not allow the character '\\x07'"),
        (b"a: b\nc: \xff\n", "line 2: not valid UTF-8"),
        (ONE.encode("utf-16"), "line 1: not valid UTF-8"),
        (b"\x00" * 9, "line 1: YAML does not allow the character '\\x00'"),
        ("[" * 100_000, "line 1: nesting must be at most 8 levels deep"),
        ("{a: " * 100_000, "line 1: nesting must be at most 8 levels deep"),
        ("- " * 100_000, "line 1: nesting must be at most 8 levels deep"),
        (f"a: {'b' * 100_000}\n", "line 1: 'a' is not a key of the file"),
        (f"{ONE}{'b' * 100_000}\n", "line 4: not valid YAML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence_with_its_line(relay_yaml: Path, text: str | bytes, says: str) -> None:
    said = refused(relay_yaml, text)
    assert said.startswith(says if says.startswith("relay.yaml") else f"relay.yaml, {says}")
    assert len(said) < 400


def test_a_bomb_of_aliases_is_refused_where_it_begins(relay_yaml: Path) -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{b}: &{b} [{f'*{a},' * 9}]\n" for a, b in pairwise("abcdefgh"))
    assert refused(relay_yaml, bomb).startswith("relay.yaml, line 1: anchors (&) and aliases (*) are")


def test_as_many_ingresses_as_there_may_be_are_read(relay_yaml: Path) -> None:
    entries = "".join(f"  - listen: mcast://239.0.{n // 250}.{n % 250}:5001@eth1\n" for n in range(1024))
    assert len(loaded(relay_yaml, f"service: a\ningresses:\n{entries}").ingresses) == 1024


def test_a_file_may_be_so_large_and_no_larger(relay_yaml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "must be at most 1,048,576 bytes long" in refused(relay_yaml, "#" * (SIZE_MAX + 1))
    monkeypatch.setattr(config, "SIZE_MAX", 1 << 14)
    assert len(loaded(relay_yaml, ONE.ljust(1 << 14, "#")).ingresses) == 1
    assert "must be at most 16,384 bytes long" in refused(relay_yaml, ONE.ljust((1 << 14) + 1, "#"))


def test_a_file_that_cannot_be_read(relay_yaml: Path) -> None:
    os.mkfifo(relay_yaml)
    Path("private").touch()
    for path, says in [
        ("none.yaml", "cannot read none.yaml: No such file or directory"),
        (".", "cannot read .: Is a directory"),
        ("/dev/zero", "/dev/zero must be a regular file"),
        (str(relay_yaml), "relay.yaml must be a regular file"),
        ("", "cannot read '': No such file"),
        ("a\0b", r"cannot read 'a\x00b': a path must not contain a null character"),
        ("line\nbreak", r"cannot read 'line\nbreak': No such file"),
        ("x" * 5000, f"cannot read {'x' * 5000}: File name too long"),
    ]:
        with pytest.raises(InvalidIngress) as caught:
            load(path)
        assert says in str(caught.value)


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "service": st.sampled_from(["headless-udp", "no", "10.0.0.7,10.0.0.8", "null", "0x7", "true"]),
        "to_port": st.integers(1, 65_535),
        "limit": st.integers(1, 10**9) | st.floats(0.001, 1e9),
        "allow_source": st.lists(
            st.ip_addresses().map(str).filter(lambda text: "ffff" not in text),
            max_size=3,
        ),
    },
)


@given(SETTINGS, st.lists(SETTINGS, min_size=1, max_size=4), st.booleans(), st.booleans())
def test_what_a_file_says_is_what_the_relay_has(
    tmp_path_factory: pytest.TempPathFactory,
    defaults: dict[str, Any],
    each: list[dict[str, Any]],
    guard: bool,
    flow: bool,
) -> None:
    entries = [{"listen": f"udp://:{5000 + place}", **entry} for place, entry in enumerate(each)]
    defaults.setdefault("service", "a")
    text = yaml.safe_dump({**defaults, "loop_guard": guard, "ingresses": entries}, default_flow_style=flow)
    said = loaded(tmp_path_factory.getbasetemp() / "said.yaml", text)
    assert said.loop_guard == guard
    for ingress, entry in zip(said.ingresses, entries, strict=True):
        url = entry.pop("listen")
        assert ingress == Ingress.parse(url, **{**defaults, **entry})


@given(
    st.binary(max_size=60)
    | st.text(st.sampled_from("service:ingrestliudp/0123[]{},&*!|>'\"%@`#?- \t\n~\\x\u2028é"), max_size=60).map(
        str.encode
    )
    | st.tuples(st.integers(0, len(FULL)), st.binary(max_size=3)).map(
        lambda slip: FULL[: slip[0]].encode() + slip[1] + FULL[slip[0] + len(slip[1]) :].encode()
    )
)
def test_whatever_a_file_holds_it_is_taken_or_refused_in_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, text: bytes
) -> None:
    try:
        config: Config | None = loaded(tmp_path_factory.getbasetemp() / "any.yaml", text)
    except InvalidIngress as error:
        said, config = str(error), None
    assert said.isprintable() if config is None else config.ingresses


def test_whatever_the_schema_refuses_has_a_title_to_say_what_is_to_be() -> None:
    def parts(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if "$ref" not in schema:
            yield schema
            for part in (*schema.get("properties", {}).values(), *schema.get("definitions", {}).values()):
                yield from parts(part)
            if "items" in schema:
                yield from parts(schema["items"])

    found = list(parts(json.loads(schema_text())))
    assert len(found) == 10
    assert all(part["title"] and part["type"] for part in found)


def test_the_document_shows_a_file_that_is_taken_and_the_sentences_of_those_that_are_not(relay_yaml: Path) -> None:
    text = (ROOT / "docs/relay.md").read_text()
    shown = text.partition("```yaml\n")[2].partition("```")[0]
    config = loaded(relay_yaml, shown)
    assert [each.service for each in config.ingresses] == ["headless-udp", "cameras", "probes"]
    assert refused(relay_yaml, shown.replace("to_port", "to_prt")) in text
    assert refused(relay_yaml, shown.replace("224.0.67.67", "10.0.0.7")) in text
    assert refused(relay_yaml, f"{shown}  - listen: udp://:32546\n") in text
    for reason in RelayDrop:
        assert f"\n| `{reason}` | " in text
    for parameter in relay.params:
        assert max(parameter.opts, key=len) in text
