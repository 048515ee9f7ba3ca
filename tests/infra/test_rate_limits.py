"""Counts in memory and counts in Redis agree; without Redis each process has its share."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from infra import rate_limits
from infra.ids import new_uuid
from infra.rate_limits import InProcess, InRedis
from read_api.limits import Ask, Limiter, Rate, Verdict
from tests.servers.fixtures import Private

HOURLY = Rate(60, 3_600)
AT_ONCE = 200
WAIT_MAX_S = 60.0
NOBODY = "redis://127.0.0.1:1"


@pytest.fixture(params=["memory", "redis"])
async def limiter(request: pytest.FixtureRequest) -> AsyncIterator[Limiter]:
    if request.param == "memory":
        yield InProcess()
        return
    made = InRedis(request.getfixturevalue("redis_url"))
    yield made
    await made.close()


def asking(rate: Rate = HOURLY, policy: str = "p") -> Ask:
    return Ask(policy, new_uuid(), rate)


async def together(limiter: Limiter, *asks: Ask, times: int = AT_ONCE) -> list[Verdict]:
    return await asyncio.gather(*(limiter.take(asks) for _ in range(times)))


def allowed(verdicts: list[Verdict]) -> int:
    return sum(verdict.allowed for verdict in verdicts)


async def test_of_many_at_once_exactly_the_limit_pass(limiter: Limiter) -> None:
    verdicts = await together(limiter, asking())
    assert allowed(verdicts) == HOURLY.limit
    refused = [verdict for verdict in verdicts if not verdict.allowed]
    assert {1 <= verdict.retry_s <= 60 for verdict in refused} == {True}
    assert sorted(v.remaining for v in verdicts if v.allowed) == list(range(HOURLY.limit))


async def test_one_subject_s_limit_is_not_another_s_nor_another_policy_s(limiter: Limiter) -> None:
    ask = asking(Rate(1, 3_600))
    assert allowed(await together(limiter, ask, times=3)) == 1
    assert (await limiter.take([ask._replace(subject=new_uuid())])).allowed
    assert (await limiter.take([ask._replace(policy="other")])).allowed


async def test_of_several_asked_together_all_are_taken_or_none(limiter: Limiter) -> None:
    subject = new_uuid()
    wide, narrow = Ask("wide", subject, Rate(10, 3_600)), Ask("narrow", subject, Rate(2, 3_600))
    verdicts = await together(limiter, wide, narrow, times=20)
    assert allowed(verdicts) == 2
    assert {v.ask.policy for v in verdicts if not v.allowed} == {"narrow"}
    # What was refused for the narrow one has cost nothing of the wide one.
    assert allowed(await together(limiter, wide, times=20)) == 8


async def test_a_share_of_the_period_later_one_more_passes() -> None:
    now = 1_000_000_000_000_000
    limiter = InProcess(now=lambda: now)
    ask = asking(Rate(60, 60))
    assert allowed(await together(limiter, ask, times=100)) == 60
    now += 999_999
    assert not (await limiter.take([ask])).allowed
    now += 1
    assert allowed(await together(limiter, ask, times=5)) == 1


async def test_what_redis_counts_is_shared_by_all_and_goes_when_it_says_nothing_more(
    redis_url: str,
) -> None:
    first, second, ask = InRedis(redis_url), InRedis(redis_url), asking()
    both = await asyncio.gather(together(first, ask, times=100), together(second, ask, times=100))
    assert allowed(both[0] + both[1]) == HOURLY.limit
    client = Redis.from_url(redis_url)
    left_ms = await client.pttl(f"automatos:limit:p:{{{ask.subject}}}")
    assert 3_500_000 < left_ms <= 3_600_000
    for each in (first, second, client):
        await (each.aclose() if isinstance(each, Redis) else each.close())


async def test_without_redis_each_process_has_its_share_and_no_request_waits_twice() -> None:
    limiter, ask = InRedis(NOBODY, processes=4), asking()
    assert allowed(await together(limiter, ask)) == HOURLY.limit // 4
    assert limiter.is_away
    assert not (await limiter.take([ask])).allowed
    await limiter.close()


async def test_redis_is_found_again(
    private_redis: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "PAUSE_S", 0.01)
    server = private_redis()
    limiter, ask = InRedis(server.url), asking(Rate(1, 3_600))
    assert (await limiter.take([ask])).allowed
    server.kill()
    # Alone it knows nothing of what Redis has counted.
    assert (await limiter.take([ask])).allowed
    assert limiter.is_away
    server.restart()
    async with asyncio.timeout(WAIT_MAX_S):
        while limiter.is_away:  # noqa: ASYNC110 it is a server that comes back
            await asyncio.sleep(0.01)
    assert allowed(await together(limiter, asking(), times=100)) == HOURLY.limit
    await limiter.close()


async def test_who_has_not_asked_for_longest_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rate_limits, "SUBJECTS_MAX", 3)
    limiter, once = InProcess(), Rate(1, 3_600)
    asks = [Ask("p", str(number), once) for number in range(4)]
    for ask in asks:
        assert (await limiter.take([ask])).allowed
    assert not (await limiter.take([asks[1]])).allowed
    assert (await limiter.take([asks[0]])).allowed


async def test_a_guess_is_rather_refused_than_another_one_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rate_limits, "SUBJECTS_MAX", 2)
    now = 1_000_000_000_000_000
    limiter = InProcess(now=lambda: now)
    guesses = [Ask("bad_keys", str(number), Rate(10, 60), strict=True) for number in range(3)]
    assert [(await limiter.take([ask])).allowed for ask in guesses] == [True, True, False]
    now += 60_000_000
    assert (await limiter.take([guesses[2]])).allowed
