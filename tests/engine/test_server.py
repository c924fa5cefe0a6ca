# SPDX-License-Identifier: Apache-2.0
"""`vllm serve` with the real model and a user's subclass of HyGenScheduler, by the OpenAI client.

The subclass writes down which class each request got and what each step served.
"""

import asyncio
import itertools
import json
import re
from dataclasses import dataclass

import pytest
from openai import AsyncOpenAI, BadRequestError

from hygen_vllm import __version__
from tests.support.recording_scheduler import RECORDING_SCHEDULER, read_records
from tests.support.vllm_server import vllm_server

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1500)]

NUM_SLOTS = 8
ARGUMENTS = [
    *("--scheduler-cls", RECORDING_SCHEDULER),
    *("--dtype", "float32"),  # bfloat16 takes three times as long on older processors
    "--enforce-eager",
    *("--max-model-len", "512"),
    *("--max-num-seqs", str(NUM_SLOTS)),
    *("--max-num-batched-tokens", "256"),
    *("--block-size", "32"),
    *("--num-gpu-blocks-override", "80"),
    # a machine on which a step takes longer would serve few offline requests at once
    *("--additional-config", json.dumps({"hygen": {"idle_step_s": 10.0}})),
]
CLIENT_LIMIT_S = 900.0
NUM_CROWD = 48

# Label: fields of the body, headers, and the class the engine should see.
LABELS = {
    "none": ({}, {}, "online"),
    "offline": ({"vllm_xargs": {"slo_class": "offline"}}, {}, "offline"),
    "online": ({"vllm_xargs": {"slo_class": "online"}}, {}, "online"),
    "unknown": ({"vllm_xargs": {"slo_class": "batch"}}, {}, "online"),
    "number": ({"vllm_xargs": {"slo_class": 7}}, {}, "online"),
    "positive-priority": ({"priority": 2}, {}, "offline"),
    "negative-priority": ({"priority": -2}, {}, "online"),
    "header": ({}, {"X-Vllm-Priority": "3"}, "offline"),
    "header-over-body": ({"priority": 2}, {"X-Vllm-Priority": "0"}, "online"),
    "class-over-priority": (
        {"priority": 2, "vllm_xargs": {"slo_class": "online"}},
        {"X-Vllm-Priority": "3"},
        "online",
    ),
}


PREFIX = r"(?m)^.*%s \d\d-\d\d \d\d:\d\d:\d\d \[\S+:\d+\] "
"""How vLLM begins a line of a level."""


@dataclass(frozen=True)
class Ask:
    """A request; `name` becomes a part of its id in the engine."""

    name: str
    label: str
    prompt: str = "The three largest cities of France are"
    max_tokens: int = 8
    is_chat: bool = False
    is_stream: bool = False

    @property
    def slo_class(self):
        return LABELS[self.label][2]


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    """A server; whatever is sent to it, it is idle in the end and has logged no error."""
    with vllm_server(model, ARGUMENTS, tmp_path_factory.mktemp("server")) as running:
        yield running
        running.wait_until_idle()
        log = running.log.read_text(encoding="utf-8", errors="replace")
        assert "Traceback" not in log
        assert "ERROR" not in log


def with_client(server, serve):
    """Run `serve(client)`, a coroutine, to its end within the time limit."""

    async def run():
        client = AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="-", max_retries=0, timeout=CLIENT_LIMIT_S
        )
        async with client:
            return await asyncio.wait_for(serve(client), CLIENT_LIMIT_S)

    return asyncio.run(run())


async def send(client, server, ask):
    """Send a request; returns the response or the stream of it."""
    body, headers, _ = LABELS[ask.label]
    options = {
        "model": server.model,
        "max_tokens": ask.max_tokens,
        "temperature": 0.0,
        "stream": ask.is_stream,
        "extra_body": {"ignore_eos": True, **body},
        "extra_headers": {"X-Request-Id": ask.name, **headers},
    }
    if ask.is_stream:
        options["stream_options"] = {"include_usage": True}
    if ask.is_chat:
        messages = [{"role": "user", "content": ask.prompt}]
        return await client.chat.completions.create(messages=messages, **options)
    return await client.completions.create(prompt=ask.prompt, **options)


async def answer(client, server, ask):
    """Return (text, finish reason, number of tokens) of a request that runs to its end."""
    response = await send(client, server, ask)
    parts = [part async for part in response] if ask.is_stream else [response]
    choices = [choice for part in parts for choice in part.choices]
    if not ask.is_chat:
        texts = [choice.text for choice in choices]
    elif ask.is_stream:
        texts = [choice.delta.content or "" for choice in choices]
    else:
        texts = [choice.message.content for choice in choices]
    return "".join(texts), choices[-1].finish_reason, parts[-1].usage.completion_tokens


async def answer_all(client, server, asks):
    return await asyncio.gather(*(answer(client, server, ask) for ask in asks))


def assert_classes_were_seen(server, asks):
    """Check that the engine got each request once, with the class of its label."""
    added = read_records(server.record, "add")
    for ask in asks:
        seen = [each["slo_class"] for each in added if f"-{ask.name}-" in each["request"]]
        assert [ask.slo_class] == seen, ask


def test_labels_reach_the_scheduler(server):
    """Chat and completions, streaming or not: each is answered, and has the class of its label."""
    asks = [
        Ask(f"{label}-{is_chat}-{is_stream}", label, is_chat=is_chat, is_stream=is_stream)
        for label in LABELS
        for is_chat in (False, True)
        for is_stream in (False, True)
    ]
    answers = with_client(server, lambda client: answer_all(client, server, asks))
    for ask, (text, finish_reason, num_tokens) in zip(asks, answers, strict=True):
        assert text.strip(), ask
        assert ("length", ask.max_tokens) == (finish_reason, num_tokens), ask
    assert_classes_were_seen(server, asks)


@pytest.mark.parametrize("label", ["none", "offline", "positive-priority", "header"])
def test_beam_search_is_served_online_only(server, label):
    """However the label is given: vLLM drops it from the requests that it makes of the beams."""
    body, headers, slo_class = LABELS[label]

    async def search(client):
        beams = {"use_beam_search": True, **body}
        options = {"max_tokens": 4, "n": 2, "temperature": 0.0}
        return await client.completions.create(
            model=server.model, prompt="Paris", **options, extra_body=beams, extra_headers=headers
        )

    if slo_class == "online":
        assert 2 == len(with_client(server, search).choices)
    else:
        with pytest.raises(BadRequestError, match="beam search cannot be offline"):
            with_client(server, search)


def test_label_and_streaming_change_no_answer(server):
    """A question alone in the engine gets the same answer in either class, streaming or not."""
    asks = [
        Ask(f"same-{i}", ("online", "offline")[i // 2], is_chat=True, is_stream=bool(i % 2))
        for i in range(4)
    ]
    texts = {
        with_client(server, lambda client, ask=ask: answer(client, server, ask))[0] for ask in asks
    }
    assert 1 == len(texts)


def test_closed_streams_leave_the_rest_alone(server):
    """Clients that go away, early or in the middle, free the engine; all others are served."""
    kept = [Ask(f"kept-{i}", ("online", "offline")[i % 2], max_tokens=24) for i in range(8)]
    left = [
        Ask(f"left-{i}", ("online", "offline")[i % 2], "Go on:", 400, i > 5, is_stream=True)
        for i in range(12)
    ]

    async def leave_after_parts(client, ask, num_parts):
        stream = await send(client, server, ask)
        async for _ in stream:
            num_parts -= 1
            if num_parts == 0:
                break
        await stream.close()

    async def leave_early(client, ask):
        task = asyncio.create_task(answer(client, server, ask))
        await asyncio.sleep(0.3)
        assert task.cancel()

    async def serve(client):
        leaving = [leave_after_parts(client, ask, 1 + i) for i, ask in enumerate(left[:8])]
        leaving += [leave_early(client, ask) for ask in left[8:]]
        return (await asyncio.gather(answer_all(client, server, kept), *leaving))[0]

    for _, finish_reason, num_tokens in with_client(server, serve):
        assert ("length", 24) == (finish_reason, num_tokens)
    server.wait_until_idle()
    assert_classes_were_seen(server, kept + left[:8])


def test_overload_starves_only_offline_and_loses_nothing(server):
    """Online at three times capacity with an offline backlog: offline waits, then all is served.

    Each answer brings three more online requests, so that they come at three times the rate at
    which they are served however fast the machine is; offline requests come back until the last
    of them is served, so that the backlog lasts.
    """
    asks = []
    numbers = itertools.count()

    async def served(client, label, max_tokens):
        i = next(numbers)
        prompt = f"Number {i}. " + "The sea is large and the land is wide. " * (1 + i % 8)
        asks.append(Ask(f"overload-{i}", label, prompt, max_tokens))
        _, finish_reason, num_tokens = await answer(client, server, asks[-1])
        assert ("length", max_tokens) == (finish_reason, num_tokens)

    async def crowd(client, left, num_arriving):
        arriving = itertools.islice(left, num_arriving)
        await asyncio.gather(*(served_and_followed(client, left) for _ in arriving))

    async def served_and_followed(client, left):
        await served(client, "online", 64)
        await crowd(client, left, 3)

    async def backlog(client, is_over):
        while not is_over.is_set():
            await served(client, "offline", 100)

    async def overload(client):
        is_over = asyncio.Event()
        offline = [asyncio.create_task(backlog(client, is_over)) for _ in range(3 * NUM_SLOTS)]
        while server.gauge("vllm:num_requests_running") < NUM_SLOTS // 2:
            await asyncio.sleep(0.1)
        num_before = len(read_records(server.record, "step"))
        await crowd(client, iter(range(NUM_CROWD)), 3 * NUM_SLOTS)
        num_crowded = len(read_records(server.record, "step")) - num_before
        is_over.set()
        await asyncio.gather(*offline)
        return num_before, num_crowded

    num_before, num_crowded = with_client(server, overload)
    assert_classes_were_seen(server, asks)
    server.wait_until_idle()
    steps = read_records(server.record, "step")[num_before : num_before + num_crowded]
    crowded = [step for step in steps if step["online_waiting"] and step["offline_waiting"]]
    assert len(crowded) > len(steps) / 3, (len(crowded), len(steps))
    served_tokens = {kind: sum(step[kind] for step in crowded) for kind in ("online", "offline")}
    assert served_tokens["offline"] <= 0.01 * served_tokens["online"], served_tokens


TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Lyon"]}},
            "required": ["city"],
        },
    },
}
SEA = "The sea is large and the land is wide. "


def test_requests_of_every_shape_survive_preemption(server):
    """Several answers, log-probabilities of the prompt, an echo, a schema, tools: all offline.

    They fill the engine, and users who come then take their place.
    """
    label = {"vllm_xargs": {"slo_class": "offline"}, "ignore_eos": True}

    def options(name, max_tokens=150, **more):
        return {
            "model": server.model,
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "extra_body": {**label, **more},
            "extra_headers": {"X-Request-Id": name},
        }

    async def several(client):
        prompt = f"Several. {SEA * 4}"
        answer = await client.completions.create(
            prompt=prompt, n=3, **{**options("several"), "temperature": 1.0}
        )
        assert [0, 1, 2] == sorted(choice.index for choice in answer.choices)
        assert 3 * 150 == answer.usage.completion_tokens

    async def probabilities(client):
        prompt = f"Probable. {SEA * 12}"
        answer = await client.completions.create(
            prompt=prompt, **options("probabilities", prompt_logprobs=1)
        )
        known = answer.choices[0].prompt_logprobs
        assert answer.usage.prompt_tokens == len(known)
        assert known[0] is None
        assert all(known[1:])

    async def echo(client):
        prompt = f"Echo. {SEA * 4}"
        answer = await client.completions.create(prompt=prompt, echo=True, **options("echo"))
        assert answer.choices[0].text.startswith(prompt)
        assert len(answer.choices[0].text) > len(prompt)

    async def tool(client, number):
        question = [{"role": "user", "content": f"{number}. {SEA * 4}Where is the Louvre?"}]
        answer = await client.chat.completions.create(
            messages=question,
            tools=[TOOL],
            tool_choice="none",  # the model is too small to call it
            **options(f"tool-{number}"),
        )
        assert 150 == answer.usage.completion_tokens
        assert answer.choices[0].message.content

    async def structured(client):
        question = [{"role": "user", "content": f"{SEA * 4}Where is the Louvre?"}]
        schema = TOOL["function"]["parameters"]
        answer = await client.chat.completions.create(
            messages=question,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "city", "schema": schema},
            },
            **{
                **options("structured", max_tokens=100),
                "extra_body": label | {"ignore_eos": False},
            },
        )
        assert json.loads(answer.choices[0].message.content)["city"] in {"Paris", "Lyon"}

    users = [Ask(f"user-{i}", "online", f"{i}. {SEA * 6}", 60) for i in range(3 * NUM_SLOTS)]
    num_before = len(read_records(server.record, "preempt"))

    async def serve(client):
        shapes = [several(client), probabilities(client), echo(client), structured(client)]
        shapes += [tool(client, number) for number in range(3)]
        offline = [asyncio.create_task(shape) for shape in shapes]
        while server.gauge("vllm:num_requests_running") < NUM_SLOTS // 2:
            assert not all(task.done() for task in offline)
            await asyncio.sleep(0.05)
        await answer_all(client, server, users)
        await asyncio.gather(*offline)

    with_client(server, serve)
    preempted = read_records(server.record, "preempt")[num_before:]
    assert {"offline"} == {each["slo_class"] for each in preempted}
    added = read_records(server.record, "add")
    for name, count in (("several", 3), ("probabilities", 1), ("echo", 1), ("tool-0", 1)):
        classes = [each["slo_class"] for each in added if f"-{name}-" in f"{each['request']}-"]
        assert ["offline"] * count == classes, name


def test_unknown_label_is_warned_about_once(server):
    """However many requests have one: a client cannot fill the log."""
    asks = [Ask(f"unknown-{i}", "unknown") for i in range(3)]
    with_client(server, lambda client: answer_all(client, server, asks))
    log = server.log.read_text(encoding="utf-8", errors="replace")
    assert 1 == log.count("has an unknown slo_class")
    assert re.search(PREFIX % "WARNING" + "Request .* has an unknown slo_class", log)


def test_log_says_what_is_in_force_and_what_becomes_of_offline_work(server):
    """Once at the start, and now and then while there is offline work, as vLLM writes its lines."""
    asks = [Ask(f"logged-{i}", "offline", max_tokens=40) for i in range(2 * NUM_SLOTS)]
    with_client(server, lambda client: answer_all(client, server, asks))
    log = server.log.read_text(encoding="utf-8", errors="replace")
    info = PREFIX % "INFO"
    start = re.findall(info + rf"HyGen {re.escape(__version__)} on vLLM \d.*: mode slo, .*", log)
    assert 1 == len(start)
    assert "targets tbt_mean=+20%, ttft_mean=+20% (the default)" in start[0]
    assert "offline: requests with slo_class offline or a priority above 0" in start[0]
    lines = re.findall(info + "HyGen: offline requests: .* running, .* waiting; .*tbt_mean.*", log)
    assert lines
