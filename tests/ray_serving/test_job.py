# SPDX-License-Identifier: Apache-2.0
"""How a job goes on where requests fail; no application is there."""

from types import SimpleNamespace

import pytest
from ray.exceptions import RayError

from hygen_vllm.batch import job
from hygen_vllm.openai_request import GIVEN_UP, OpenAiRequest, error_of
from hygen_vllm.ray_serving.offline_pool import JOB_ENDED
from tests.support.processes import reserved_port

ROWS = {str(i): OpenAiRequest("/v1/completions", {"prompt": "x"}) for i in range(4)}
GOOD = {"response": {}}
OVERLOADED = error_of("try later", 503)


class Passes:
    """Stands for the passes over what is left; each gives the results that it is told to.

    Args: results: of each pass, given a request's name; an exception ends the pass instead.
    """

    def __init__(self, *results):
        self._results = list(results)
        self.wanted = []

    def __call__(self, rows, *_):
        self.wanted.append([name for name, _ in rows])
        result = self._results.pop(0) if len(self._results) > 1 else self._results[0]
        for name in self.wanted[-1]:
            given = result(name)
            if isinstance(given, Exception):
                raise given
            if given is not None:
                yield name, given


@pytest.fixture
def run(monkeypatch):
    """Runs ROWS; returns the results, the passes and the seconds that were waited."""
    monkeypatch.setattr(job, "check_application", lambda _: None)

    def run(*results):
        passes, waited = Passes(*results), []
        monkeypatch.setattr(job, "_run_once", passes)
        return list(job.run_rows([*ROWS.items()], "default", 8, waited.append)), passes, waited

    return run


def test_results_come_in_one_pass_when_all_is_well(run):
    """Nobody waits."""
    results, passes, waited = run(lambda _: GOOD)
    assert ([*ROWS], 1, []) == ([name for name, _ in results], len(passes.wanted), waited)


def test_what_ray_lost_runs_again(run):
    """What came before is not asked for again."""
    results, passes, waited = run(
        lambda name: GOOD if name < "2" else RayError("actor died"), lambda _: GOOD
    )
    assert [*ROWS] == [name for name, _ in results]
    assert ([[*ROWS], ["2", "3"]], [1.0]) == (passes.wanted, waited)


def test_server_errors_count_after_three_tries(run):
    """Its own error is then the result."""
    results, passes, _ = run(lambda _: OVERLOADED)
    assert [(name, OVERLOADED) for name in ROWS] == results
    assert job.MOST_TRIES == len(passes.wanted)


@pytest.mark.parametrize("kind", [(400,), (500, GIVEN_UP)], ids=["client", "given up"])
def test_errors_that_would_come_again_count_at_once(run, kind):
    """What a client got wrong, and what has ended as many engines as it may."""
    bad = error_of("too long", *kind)
    results, passes, _ = run(lambda _: bad)
    assert ([(name, bad) for name in ROWS], 1) == (results, len(passes.wanted))


def test_word_that_the_job_has_ended_is_no_result(run):
    """It was silent for too long, and asks again, however often."""
    ended = error_of("the job of this request has ended", JOB_ENDED)
    results, passes, _ = run(*[lambda _: ended] * 5, lambda _: GOOD)
    assert [(name, GOOD) for name in ROWS] == results
    assert 6 == len(passes.wanted)


@pytest.mark.parametrize("failure", [RayError("actor died"), None], ids=["ray", "on the way"])
def test_job_is_given_up_when_nothing_comes(run, failure):
    """With one line, not before some minutes."""
    with pytest.raises(RuntimeError, match="fails again and again"):
        run(lambda _: failure)


@pytest.mark.parametrize("deployments", [{}, {"other": ["OfflinePool"]}, {"wanted": ["LLMServer"]}])
def test_application_that_is_not_there_is_refused(monkeypatch, deployments):
    """At once."""
    found = {name: SimpleNamespace(deployments=each) for name, each in deployments.items()}
    monkeypatch.setattr(job.serve, "status", lambda: SimpleNamespace(applications=found))
    with pytest.raises(RuntimeError, match="no application 'wanted'"):
        list(job.run_rows([*ROWS.items()], "wanted", 8))


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_cluster_that_is_not_there_is_refused(scheme):
    """In one line, before Ray has tried for a minute."""
    with reserved_port() as port, pytest.raises(RuntimeError, match="no Ray cluster") as error:
        job.connect(f"{scheme}127.0.0.1:{port}")
    assert "\n" not in str(error.value)
