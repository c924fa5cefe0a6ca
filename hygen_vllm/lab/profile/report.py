# SPDX-License-Identifier: Apache-2.0
"""Writes the profile folder: `profile.json`, and one page about it as text and as picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.cost.engine_info import EngineInfo
from hygen_vllm.cost.fit import total_tokens
from hygen_vllm.cost.profile import save_profile
from hygen_vllm.files import replacing, write_text
from hygen_vllm.lab.profile.accuracy import masks_by_kind
from hygen_vllm.lab.profile.fit import FittedProfile

COLOURS = {"decodes only": "tab:blue", "prefills only": "tab:orange", "both": "tab:green"}


def write_profile(fitted: FittedProfile, folder: Path) -> str:
    """Write profile.json, report.md and, with matplotlib, report.png; return the report's text."""
    save_profile(fitted.profile, folder)
    text = report_text(fitted.profile.engine, fitted.profile.fit)
    try:
        draw_report(fitted, folder / "report.png")
    except ModuleNotFoundError:
        text += "\nNo picture: it needs matplotlib (pip install 'hygen-vllm[lab]').\n"
    else:
        text += "\n![predicted and measured step times](report.png)\n"
    write_text(folder / "report.md", text)
    return text


def report_text(engine: EngineInfo, fit: Mapping[str, Any]) -> str:
    """Return the page about a profile, in Markdown."""
    about = (
        f"{engine.architecture}; {engine.dtype}; TP {engine.tensor_parallel}, "
        f"PP {engine.pipeline_parallel}; vLLM {engine.vllm_version}, "
        f"{'asynchronous' if engine.is_async else 'synchronous'} scheduling; up to "
        f"{engine.max_num_batched_tokens} tokens and {engine.max_num_seqs} requests a step, "
        f"{engine.max_model_len} tokens a request, {engine.num_kv_blocks} KV blocks of "
        f"{engine.block_size}. Errors are those of batches held out of the fit."
    )
    lines = [
        f"# Step times of {engine.model} on {engine.device}",
        "",
        about,
        "",
        accuracy_table(fit),
    ]
    return "\n".join(lines)


def accuracy_table(figures: Mapping[str, Any]) -> str:
    """Return the figures of `accuracy_figures` as a sentence and a table, in Markdown."""
    floor = figures["noise_floor"]
    lines = [
        f"{figures['num_steps']} steps, MAPE **{figures['mape']:.2%}**; noise floor "
        + (
            "unknown, no batch was measured twice."
            if floor is None
            else f"{floor:.2%}, which is what a prediction that knew the true mean of every batch "
            "would have."
        ),
        "",
        "| steps | number | MAPE | median | P95 | bias |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['num_steps']} | {row['mape']:.2%} | {row['median']:.2%} "
        f"| {row['p95']:.2%} | {row['bias']:+.2%} |"
        for name, row in {"all": figures, **figures["regions"]}.items()
    ]
    return "\n".join(lines) + "\n"


def draw_report(fitted: FittedProfile, path: Path) -> None:
    """Draw predicted against measured, errors by size and by kind, and the curve in tokens."""
    from matplotlib import pyplot as plt

    steps, predicted = fitted.steps, fitted.predicted
    error = 100.0 * (predicted / steps.seconds - 1.0)
    masks = masks_by_kind(steps.X)
    figure, axes = plt.subplots(2, 2, figsize=(11, 8.5), constrained_layout=True)
    (against, by_size), (spread, curve) = axes
    for kind, colour in COLOURS.items():
        mask = masks[kind]
        against.plot(1e3 * steps.seconds[mask], 1e3 * predicted[mask], ".", ms=3, c=colour)
        by_size.plot(total_tokens(steps.X)[mask], error[mask], ".", ms=3, c=colour, label=kind)
        if mask.any():
            spread.hist(error[mask], np.linspace(-15, 15, 61), histtype="step", color=colour)
    ends = [1e3 * steps.seconds.min(), 1e3 * steps.seconds.max()]
    against.plot(ends, ends, c="grey", lw=1)
    against.set(xscale="log", yscale="log", xlabel="measured, ms", ylabel="predicted, ms")
    by_size.axhline(0, c="grey", lw=1)
    by_size.set(xscale="log", ylim=(-30, 30), xlabel="tokens in the step", ylabel="error, %")
    by_size.legend()
    spread.set(xlabel="error, % (held-out batches)", ylabel="steps")
    cost = fitted.profile.cost
    tokens = np.arange(1, fitted.profile.engine.max_num_batched_tokens + 1)
    alone = [cost.base_s + cost.added_chunk_seconds(StepComposition(), int(n), 0) for n in tokens]
    curve.plot(tokens, 1e3 * np.array(alone), c="black")
    curve.set(xlabel="tokens of a chunk alone in its step", ylabel="predicted, ms", ylim=(0, None))
    fit, engine = fitted.profile.fit, fitted.profile.engine
    floor = "unknown" if fit["noise_floor"] is None else f"{fit['noise_floor']:.2%}"
    figure.suptitle(
        f"{engine.model} on {engine.device}, {engine.dtype}: {fit['num_steps']} measured steps, "
        f"held-out MAPE {fit['mape']:.2%}, noise floor {floor}"
    )
    with replacing(path) as part:
        figure.savefig(part, dpi=110)
    plt.close(figure)
