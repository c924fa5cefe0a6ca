# SPDX-License-Identifier: Apache-2.0
"""An engine to make profiles and traces of."""

from hygen_vllm.cost.engine_info import EngineInfo

ENGINE = EngineInfo(
    model="Llama-2-7b",
    architecture="LlamaForCausalLM, 32 layers",
    dtype="float16",
    tensor_parallel=1,
    pipeline_parallel=1,
    device="A100",
    vllm_version="0.32.0",
    is_async=True,
    max_num_batched_tokens=512,
    max_num_seqs=8,
    max_model_len=256,
    block_size=4,
    num_kv_blocks=100,
)

OTHERS = [
    ("architecture", "LlamaForCausalLM, 40 layers"),
    ("dtype", "bfloat16"),
    ("tensor_parallel", 2),
    ("pipeline_parallel", 4),
    ("device", "H100"),
]
"""Each difference that makes step times those of another engine: field and other value."""
