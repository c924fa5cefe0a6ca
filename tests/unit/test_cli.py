# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys

import pytest

from hygen_vllm.cli import main


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "COMMAND"),
        (["serve"], "serve"),
        (["demo", "--seconds", "0"], "--seconds: must be > 0, got 0"),
        (["demo", "--online-rate", "fast"], "--online-rate"),
        (["demo", "--sedonds", "5"], "--sedonds"),
        (["demo", "--policies", "fifo"], "got fifo"),
        (["demo", "--model", "/no/such/folder"], "--model must name a folder"),
        (["demo", "--json", "/no/such/folder/x.json"], "--json must name a file"),
    ],
)
def test_bad_arguments_exit_2_with_one_line_that_names_them(arguments, reason, capsys):
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code
    output = capsys.readouterr()
    assert status == 2
    assert reason in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""


def test_broken_trace_exits_2_with_file_and_line(tmp_path, monkeypatch, capsys):
    trace = tmp_path / "azure2023" / "AzureLLMInferenceTrace_conv.csv"
    trace.parent.mkdir()
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\nnow,1,1\n", encoding="utf-8")
    monkeypatch.setenv("HYGEN_DATA", str(tmp_path))
    monkeypatch.setattr("hygen_vllm.demo.run._load_tokenizer", lambda _: None)
    assert main(["demo", "--model", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert f"{trace}:2: cannot read 'now,1,1'" in capsys.readouterr().err


def test_help_needs_neither_vllm_nor_torch():
    code = (
        "import sys, hygen_vllm.cli as cli\n"
        "try: cli.main(['demo', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'vllm', 'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"
