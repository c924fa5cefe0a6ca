# SPDX-License-Identifier: Apache-2.0
"""Fetches the public traces and texts that experiments use, unchanged, and checks them.

    python experiments/fetch_data.py FOLDER
    export HYGEN_DATA=FOLDER

What is there already is not fetched again. Without the data, requests are drawn that look like it.
"""

import argparse
import hashlib
import sys
import tarfile
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

GITHUB = "https://raw.githubusercontent.com"
VIDUR = f"{GITHUB}/microsoft/vidur/main/data"
TIMEOUT_S = 60.0
CHUNK = 1 << 16


@dataclass(frozen=True)
class Source:
    """A public file.

    Args:
        path: in FOLDER.
        sha256: of the file; of an archive, of what is taken out of it.
        members: where in an archive the folders are that are taken out of it.
    """

    path: str
    url: str
    sha256: str
    licence: str
    members: tuple[str, ...] = ()


def _operators(gpu: str, model: str, sha256: str) -> Source:
    where = f"{gpu}/meta-llama/{model}/mlp.csv"
    return Source(f"device_ops/{where}", f"{VIDUR}/profiling/compute/{where}", sha256, "MIT")


SOURCES = (
    Source(
        "azure2023/AzureLLMInferenceTrace_conv.csv",
        f"{GITHUB}/Azure/AzurePublicDataset/master/data/AzureLLMInferenceTrace_conv.csv",
        "2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8",
        "CC-BY-4.0; cite Splitwise (ISCA 2024)",
    ),
    Source(
        "mooncake/conversation_trace.jsonl",
        f"{GITHUB}/kvcache-ai/Mooncake/main/FAST25-release/traces/conversation_trace.jsonl",
        "b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df",
        "Apache-2.0; cite Mooncake (FAST 2025)",
    ),
    Source(
        "lengths/arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv",
        f"{VIDUR}/processed_traces/arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv",
        "9d3580538d915ca75e4aaaa54590b42dbb17abc6d74c8913310cf07c232adcdc",
        "MIT",
    ),
    Source(
        "lengths/sharegpt_8k_filtered_stats_llama2_tokenizer.csv",
        f"{GITHUB}/microsoft/sarathi-serve/main/data/processed_traces/"
        "sharegpt_8k_filtered_stats_llama2_tokenizer.csv",
        "6d6c296302a853e2669a674a96f269283e60c57e60363bd450588a1066919f9f",
        "Apache-2.0",
    ),
    Source(
        "gsm8k/train.jsonl",
        f"{GITHUB}/openai/grade-school-math/master/grade_school_math/data/train.jsonl",
        "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
        "MIT",
    ),
    Source(
        "gsm8k/test.jsonl",
        f"{GITHUB}/openai/grade-school-math/master/grade_school_math/data/test.jsonl",
        "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
        "MIT",
    ),
    Source(
        "mmlu",
        "https://people.eecs.berkeley.edu/~hendrycks/data.tar",
        "57256889fdea475f08de697bbba2d2eff8b76ede02073b8a18fddf81fb83bf7b",
        "MIT",
        ("data/dev", "data/test"),
    ),
    _operators(
        "a100",
        "Llama-2-7b-hf",
        "2cfacca979f32e83257753cf6fd815a71af8ba9a7a9d0643b18d9f54e8a37688",
    ),
    _operators(
        "a100",
        "Meta-Llama-3-8B",
        "98c26488298e324e89db7349e213f75c856ae83dc6b17548a68636d2cb5efff0",
    ),
    _operators(
        "a40",
        "Llama-2-7b-hf",
        "f8d0f455d0b72b7975be0ed8e1951dcbf2eabc083001b27f6ef8203c0a96962c",
    ),
    _operators(
        "h100",
        "Llama-2-7b-hf",
        "b1a2def08857d10e5f66c3b5b2d046b6e8caed5c30b2bc920a0462598e3b2a59",
    ),
)


def checksum(source: Source, root: Path) -> str | None:
    """Return the SHA-256 of what is there of a source, None if nothing is."""
    path = root / source.path
    if not path.exists():
        return None
    digest = hashlib.sha256()
    if not source.members:
        digest.update(path.read_bytes())
        return digest.hexdigest()
    folders = [path / Path(member).name for member in source.members]
    for file in sorted(file for folder in folders for file in folder.glob("*.csv")):
        digest.update(file.relative_to(path).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def fetch(source: Source, root: Path) -> None:
    """Fetch a source that is not there yet. Raises ValueError, one line, if it is another one."""
    if checksum(source, root) == source.sha256:
        return
    path = root / source.path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    _download(source.url, part)
    if source.members:
        _take_out(part, source.members, path)
        part.unlink()
    else:
        part.rename(path)
    if checksum(source, root) != source.sha256:
        raise ValueError(f"{source.url} is not the file that was used here: SHA-256 differs")


def _download(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, path.open("wb") as file:  # noqa: S310 - the addresses above
        size = int(answer.headers.get("Content-Length") or 0) or None
        bar = tqdm(total=size, unit="B", unit_scale=True, desc=path.stem, file=sys.stderr)
        with bar:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))


def _take_out(archive: Path, members: Iterable[str], folder: Path) -> None:
    """Take the CSV files of some folders out of an archive."""
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            where = Path(member.name)
            data = tar.extractfile(member) if where.parent.as_posix() in members else None
            if data is not None and where.suffix == ".csv":
                target = folder / where.parent.name / where.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data.read())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    root = parser.parse_args().folder
    for source in SOURCES:
        try:
            fetch(source, root)
        except (OSError, ValueError) as error:
            sys.exit(f"cannot fetch {source.path}: {error}")
        print(f"{source.path}  {source.licence}  {source.url}")
    print(f"export HYGEN_DATA={root.resolve()}")


if __name__ == "__main__":
    main()
