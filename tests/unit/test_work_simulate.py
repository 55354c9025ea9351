"""The built-in handler `simulate`."""

from __future__ import annotations

import pytest

from jobpipe.work.simulate import SimulatedFailure, simulate_handler


class Slept:
    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.mark.parametrize(("drawn", "seconds"), [(0.0, 2.0), (0.5, 3.0), (0.999, 3.998)])
async def test_it_sleeps_between_its_bounds(drawn: float, seconds: float) -> None:
    draws, slept = iter([drawn, 0.9]), Slept()
    await simulate_handler(2, 4, 0.2, random=lambda: next(draws), sleep=slept)()
    assert slept.seconds == [pytest.approx(seconds)]


async def test_it_fails_with_its_probability() -> None:
    draws = iter([0.5, 0.19, 0.5, 0.2])
    handler = simulate_handler(0, 0, 0.2, random=lambda: next(draws), sleep=Slept())
    with pytest.raises(SimulatedFailure, match="simulated failure"):
        await handler()
    await handler()


@pytest.mark.parametrize("failures", [0.0, 1.0])
async def test_never_and_always_are_exact(failures: float) -> None:
    for drawn in (0.0, 0.999999):
        handler = simulate_handler(0, 0, failures, random=lambda d=drawn: d, sleep=Slept())  # type: ignore[misc]
        if failures:
            with pytest.raises(SimulatedFailure):
                await handler()
        else:
            await handler()


@pytest.mark.parametrize("payload", [b"null", b"{}", b'{"a": 1, "b": 2}', b"[1]", b'"x"', b"1.5"])
def test_it_takes_any_payload(payload: bytes) -> None:
    simulate_handler().binding.bind(payload)
