# SPDX-License-Identifier: Apache-2.0
"""`hygen profile` takes vLLM's own engine flags, and vLLM's own reason where one is wrong."""

from pathlib import Path

import pytest

from hygen_vllm.lab.cli import main
from hygen_vllm.lab.profile.engine_flags import parse_engine_flags


def test_engine_flags_are_read_as_vllm_serve_reads_them(tmp_path: Path) -> None:
    """Names, kinds and defaults are vLLM's."""
    flags = ["--model", str(tmp_path), "--max-model-len", "256", "--enforce-eager"]
    engine_args = parse_engine_flags([*flags, "--max_num_seqs=4"])
    found = (engine_args.model, engine_args.max_model_len, engine_args.max_num_seqs)
    assert (str(tmp_path), 256, 4) == found
    assert (True, "auto") == (engine_args.enforce_eager, engine_args.dtype)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--no-such-flag", "3"], "--no-such-flag"),
        (["--dtype", "float7"], "float7"),
        (["--max-num-seqs", "many"], "--max-num-seqs"),
    ],
)
def test_profile_with_a_wrong_engine_flag_exits_2_with_one_line_that_names_it(
    flags: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing was started, and no folder was made."""
    out = tmp_path / "out"
    assert 2 == main(["profile", "--model", "tiny", "--out", str(out), *flags])
    output = capsys.readouterr()
    assert (1, "") == (output.err.count("\n"), output.out)
    assert output.err.startswith("hygen: ")
    assert reason in output.err
    assert not out.exists()
