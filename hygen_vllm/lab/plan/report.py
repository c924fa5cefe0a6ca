# SPDX-License-Identifier: Apache-2.0
"""What planning found: a text with a table, JSON, and a picture of the day."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hygen_vllm.files import replacing, write_text

if TYPE_CHECKING:
    from hygen_vllm.lab.plan.plan import Plan
    from hygen_vllm.lab.plan.slot_job import SampledSlot

ONLINE_COLOUR, OFFLINE_COLOUR, WHOLE_COLOUR = "#2b6cb0", "#e0861a", "#8a8f98"
KEPT = 1.02
"""Of its limit, up to which a target counts as kept in a slot of some minutes."""


def write_plan(plan: "Plan", folder: Path, gpu_hour_price: float | None) -> str:
    """Write plan.json, report.md and, with matplotlib, plan.png; return the report's text."""
    text = plan_text(plan, gpu_hour_price)
    document = json.dumps(as_json(plan), indent=1) + "\n"
    write_text(folder / "plan.json", document)
    try:
        _draw(plan, folder / "plan.png")
    except ModuleNotFoundError:
        text += "\nNo picture: it needs matplotlib (pip install 'hygen-vllm[lab]').\n"
    write_text(folder / "report.md", text)
    return text


def plan_text(plan: "Plan", gpu_hour_price: float | None = None) -> str:
    """Return what was found, in Markdown."""
    lines = [f"# Offline work beside {', '.join(plan.slos)}", ""]
    lines += [f"{plan.description}.", ""]
    lines += [f"Pieces of {plan.slot_s:.0f} s, of one engine, from the least to the most load:", ""]
    lines += ["| online requests/s | load | offline tokens/s | of offline alone | targets |"]
    lines += ["|---:|---:|---:|---:|---|"]
    for slot, served in plan.sampled:
        share = served.offline_tokens_per_s / plan.capacity_tokens_per_s
        cells = [f"{len(slot.requests) / plan.slot_s:.2f}", f"{slot.load:.0%}"]
        cells += [f"{served.offline_tokens_per_s:,.0f}", f"{share:.0%}", _targets(served)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", _sum(plan)]
    if plan.ran_out:
        lines.append("Offline requests ran out in some pieces: more of them would show all of it.")
    if gpu_hour_price is not None:
        worth = gpu_hour_price * plan.won_gpu_hours
        lines.append(f"At {gpu_hour_price:g} a GPU-hour that is {worth:,.2f}.")
    return "\n".join(lines) + "\n"


def _sum(plan: "Plan") -> str:
    return (
        f"In {plan.hours:.1f} h {plan.offline_tokens / 1e6:,.1f} million offline tokens are "
        f"served, for which GPUs of their own would need {plan.won_gpu_hours:.1f} GPU-hours: "
        f"{plan.share:.0%} of the {plan.gpu_hours:.1f} that these engines have."
    )


def _targets(served: "SampledSlot") -> str:
    if not served.of_limits:
        return "nobody there"
    worst = max(served.of_limits, key=lambda name: served.of_limits[name])
    ratio = served.of_limits[worst]
    return f"kept ({ratio:.2f} of the limit)" if ratio <= KEPT else f"{worst} missed: {ratio:.2f}"


def as_json(plan: "Plan") -> dict[str, Any]:
    """Return the figures of a plan."""
    return {
        "description": plan.description,
        "slos": [*plan.slos],
        "hours": plan.hours,
        "replicas": plan.replicas,
        "gpu_hours": plan.gpu_hours,
        "won_gpu_hours": plan.won_gpu_hours,
        "share": plan.share,
        "offline_tokens": plan.offline_tokens,
        "capacity_tokens_per_s": plan.capacity_tokens_per_s,
        "sampled": [
            {
                "start_s": slot.start_s,
                "requests_per_s": len(slot.requests) / plan.slot_s,
                "load": slot.load,
                "online_tokens_per_s": served.online_tokens_per_s,
                "offline_tokens_per_s": served.offline_tokens_per_s,
                "of_limits": served.of_limits,
                "ran_out": served.ran_out,
            }
            for slot, served in plan.sampled
        ],
        "slots": {
            "seconds": plan.slot_s,
            "requests_per_s": [len(slot.requests) / plan.slot_s for slot in plan.slots],
            "load": [slot.load for slot in plan.slots],
            "offline_tokens_per_s": [*plan.offline_tokens_per_s],
        },
    }


def _draw(plan: "Plan", path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    hours = [slot.start_s / 3600.0 for slot in plan.slots]
    hours.append(hours[-1] + plan.slot_s / 3600.0)
    figure, (load, work) = plt.subplots(2, 1, figsize=(10, 6), sharex=True, layout="constrained")
    rates = [plan.replicas * len(slot.requests) / plan.slot_s for slot in plan.slots]
    load.stairs(rates, hours, color=ONLINE_COLOUR, fill=True)
    load.set(ylabel="online requests/s", ylim=(0, None))
    offline = [plan.replicas * rate for rate in plan.offline_tokens_per_s]
    work.stairs(offline, hours, color=OFFLINE_COLOUR, fill=True)
    capacity = plan.replicas * plan.capacity_tokens_per_s
    work.axhline(capacity, color=WHOLE_COLOUR, ls=":", label="offline alone")
    work.set(ylabel="offline tokens/s", xlabel="hours", ylim=(0, 1.08 * capacity))
    work.legend(frameon=False, loc="upper right")
    load.set_title(f"{', '.join(plan.slos)}: {plan.share:.0%} of the GPUs")
    figure.suptitle(plan.description, fontsize=9)
    with replacing(path) as part:
        figure.savefig(part, dpi=130)
    plt.close(figure)
