"""gen.provenance: a file says what made it."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from gen import __version__
from gen.provenance import config_hash, file_sha256, git_commit, provenance


def test_every_fact_is_a_text_and_none_is_left_out() -> None:
    """File attributes are texts; a fact that is not known is absent, not the text "None"."""
    facts = provenance("c", "m", 7, source="demo", member_block=4, absent=None)
    assert all(isinstance(value, str) for value in facts.values())
    assert facts["gen_version"] == __version__
    assert (facts["config_hash"], facts["model_hash"], facts["seed"]) == ("c", "m", "7")
    assert facts["member_block"] == "4"
    assert "absent" not in facts
    assert facts["created"].endswith("+00:00")


def test_config_hash_ignores_order_but_not_values() -> None:
    """The hash is a function of the mapping, not of how it was written down."""
    one = config_hash({"a": 1, "b": {"c": (1, 2), "d": Path("x")}})
    assert one == config_hash({"b": {"d": Path("x"), "c": [1, 2]}, "a": 1})
    assert one != config_hash({"a": 2, "b": {"c": (1, 2), "d": Path("x")}})


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 3])
def test_file_hash_equals_hashlib(tmp_path: Path, size: int) -> None:
    """Reading in chunks gives the hash of the whole."""
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "f").write_bytes(content[:size])
    assert file_sha256(tmp_path / "f") == hashlib.sha256(content[:size]).hexdigest()


def test_commit_is_absent_outside_a_checkout_and_marked_when_files_differ(tmp_path: Path) -> None:
    """A commit is only named where the code lies in one, and says when the code is not that commit's."""
    assert git_commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "f").write_text("1")
    for command in (["init", "-q"], ["add", "f"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], check=True)
    commit = git_commit(tmp_path)
    assert commit is not None and len(commit) == 40
    (tmp_path / "f").write_text("2")
    assert git_commit(tmp_path) == commit + "+changes"
