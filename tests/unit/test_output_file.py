# SPDX-License-Identifier: Apache-2.0
"""A file that a command writes is whole or as it was, and an error names it."""

import errno
import os
import re
from pathlib import Path

import pytest

import hygen_vllm
from hygen_vllm.files import naming, replacing, write_text

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_file_is_written_and_nothing_is_left_beside_it(tmp_path):
    """Also in place of an older one, whose mode it keeps."""
    path = tmp_path / "result.json"
    write_text(path, "old")
    path.chmod(0o640)
    write_text(path, "new é")
    assert path.read_text(encoding="utf-8") == "new é"
    assert path.stat().st_mode & 0o777 == 0o640
    assert [each.name for each in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("failure", [FULL, KeyboardInterrupt(), ValueError("x")])
def test_what_was_there_stays_if_writing_fails(tmp_path, failure):
    """Half a result is worse than the one before; nothing is left beside it either."""
    path = tmp_path / "result.json"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as part:
            part.write_text("ne")
            raise failure

    with pytest.raises((OSError, KeyboardInterrupt, ValueError)):
        write()
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["result.json"]


def test_full_disk_is_said_with_the_name_of_the_file(tmp_path):
    """What writes to an open file has an error without a name."""
    path = tmp_path / "figure.png"
    with pytest.raises(OSError, match=r"No space left on device: '.*figure.png'"), replacing(path):
        raise FULL
    with pytest.raises(OSError, match=r"cannot write: No .*'x.jsonl'"), naming(Path("x.jsonl")):
        raise FULL


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_device_is_written_to_and_never_replaced():
    """As root, /dev/null would be a file from then on."""
    write_text(Path("/dev/null"), "text")
    assert not Path("/dev/null").is_file()
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_text(Path("/dev/full"), "text")


def test_link_stays_a_link(tmp_path):
    """The file that it names is replaced."""
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "there" / "result.json")
    write_text(link, "text")
    assert link.is_symlink()
    assert (tmp_path / "there" / "result.json").read_text() == "text"


def test_no_command_writes_a_result_in_place():
    """Appended files and those of a lock, a log or a throw-away folder are named here."""
    others = {"small_model.py", "bare_scheduler.py", "files.py", "streams.py"}
    in_place = re.compile(r"\.write_(text|bytes)\(|savefig\(path|path\.open\(\"w")
    root = Path(hygen_vllm.__file__).parent
    assert [
        file.name
        for file in sorted(root.rglob("*.py"))
        if file.name not in others and in_place.search(file.read_text(encoding="utf-8"))
    ] == []
