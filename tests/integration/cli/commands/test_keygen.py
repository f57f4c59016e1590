"""`fanout keygen`: keys that are new, usable, and not left where others can read them."""

from __future__ import annotations

import stat
from pathlib import Path

from fanout.net.key_file import KeyFile
from fanout.protocol.seal import Keyring
from tests.support.cli import invoke


def test_it_prints_a_new_key_each_time() -> None:
    runs = [invoke("keygen") for _ in range(2)]
    keys = {Keyring.parse(run.out.encode(), "standard output").keys[0] for run in runs}
    assert [(run.code, run.err, run.out.count("\n")) for run in runs] == [(0, "", 1)] * 2
    assert len(keys) == 2


def test_it_writes_a_file_for_its_owner_alone_and_never_over_another(tmp_path: Path) -> None:
    path = tmp_path / "key"
    run = invoke("keygen", str(path))
    assert (run.code, run.out, run.err) == (0, "", f"wrote a new key to {path}\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = KeyFile(str(path)).keyring()
    sentence = invoke("keygen", str(path)).assert_one_sentence(1)
    assert f"cannot write the new key to {path}: it exists" in sentence
    assert KeyFile(str(path)).keyring() == first


def test_where_it_cannot_write_it_says_so(tmp_path: Path) -> None:
    sentence = invoke("keygen", str(tmp_path / "no" / "key")).assert_one_sentence(1)
    assert sentence.endswith("key: No such file or directory")
    assert "cannot write the new key to ''" in invoke("keygen", "").assert_one_sentence(1)


def test_no_environment_variable_names_the_file(tmp_path: Path) -> None:
    run = invoke("keygen", FANOUT_PATH=str(tmp_path / "key"), FANOUT_KEY_FILE=str(tmp_path / "key"))
    assert run.code == 0
    assert list(tmp_path.iterdir()) == []
