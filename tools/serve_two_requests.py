# SPDX-License-Identifier: Apache-2.0
"""Serve one online and one offline request on a real engine with HyGen; exit 1 if it does not work.

    python tools/serve_two_requests.py MODEL TRACE

TRACE is a file that does not exist: the scheduler records its steps there, which shows that it was
HyGen's. The package has to be one that is installed in the environment of the interpreter.
"""

import sys
from pathlib import Path

NUM_TOKENS = 8
LABELS = ({"slo_class": "online"}, {"slo_class": "offline"})


def main(model: str, trace: Path) -> None:
    """Serve both at the same time and print what came of it."""
    import vllm

    import hygen_vllm

    package = Path(hygen_vllm.__file__)
    if not package.is_relative_to(sys.prefix):
        sys.exit(f"hygen_vllm is {package}, not one installed in {sys.prefix}")
    llm = vllm.LLM(
        model=model,
        scheduler_cls="hygen_vllm.HyGenScheduler",
        additional_config={"hygen": {"trace": str(trace)}},
        enforce_eager=True,
        dtype="bfloat16",
        max_model_len=256,
        max_num_seqs=4,
    )
    outputs = llm.generate(
        ["The capital of France is", "The first prime numbers are"],
        [
            vllm.SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True, extra_args=label)
            for label in LABELS
        ],
        use_tqdm=False,
    )
    for label, output in zip(LABELS, outputs, strict=True):
        (answer,) = output.outputs
        print(f"{label['slo_class']}: {output.prompt!r} -> {answer.text!r}")
        if not output.finished or len(answer.token_ids) != NUM_TOKENS:
            sys.exit(f"expected {NUM_TOKENS} tokens, got {len(answer.token_ids)}")
    num_steps = len(trace.read_text(encoding="utf-8").splitlines()) - 2  # two lines are the head
    print(f"served by {package.parent} in vLLM {vllm.__version__}; {num_steps} steps recorded")
    if num_steps < 1:
        sys.exit("the scheduler recorded no step")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
