"""Video through the stand-in: pictures, timestamps, pairing, dropping, dying."""

from __future__ import annotations

import itertools

from demo.standin import ComfyStreamStandIn, Faults
from tests.integration.standin_client import INVERT, PASS, STEP, connect

UNEVEN = [3000, 3007, 2995, 9000, 1, 3001, 3000, 90000]


def uneven_pts(count: int) -> list[int]:
    """Timestamps with steps of very different length."""
    return list(itertools.accumulate(itertools.islice(itertools.cycle(UNEVEN), count)))


async def test_without_prompts_every_picture_returns_with_its_timestamp() -> None:
    """A connection without prompts echoes pictures and pts differences exactly."""
    async with ComfyStreamStandIn() as standin, connect(standin.url) as peer:
        pts = uneven_pts(40)
        await peer.send_in_step(range(40), pts)
        offset = pts[0] - peer.pictures[0].pts
        for number, returned in enumerate(peer.pictures):
            assert (returned.number, returned.inverted) == (number, False)
            assert returned.pts + offset == pts[number]


async def test_prompts_invert_every_picture_with_its_timestamp() -> None:
    """A workflow that keeps up returns every picture processed, with exact pts differences."""
    async with ComfyStreamStandIn() as standin, connect(standin.url, [INVERT]) as peer:
        pts = uneven_pts(40)
        await peer.send_in_step(range(40), pts)
        offset = pts[0] - peer.pictures[0].pts
        for number, returned in enumerate(peer.pictures):
            assert (returned.number, returned.inverted) == (number, True)
            assert returned.pts + offset == pts[number]


async def test_load_save_leaves_the_picture_as_it_is() -> None:
    """LoadTensor into SaveTensor does not alter the picture."""
    async with ComfyStreamStandIn() as standin, connect(standin.url, PASS) as peer:
        await peer.send_in_step(range(6), [n * STEP for n in range(6)])
        assert [p.number for p in peer.pictures[:4]] == [0, 1, 2, 3]
        assert not any(p.inverted for p in peer.pictures)


async def test_overload_names_pictures_wrongly_and_piles_up_labels() -> None:
    """A slow workflow returns output k under the pts of input k, whatever it shows."""
    faults = Faults(process_ms=(50,))
    async with ComfyStreamStandIn(faults=faults) as standin, connect(standin.url, PASS) as peer:
        await peer.stream(range(60), fps=60)
        await peer.wait_pictures(12)
        for index, returned in enumerate(peer.pictures):
            assert returned.pts == index * STEP
        last = peer.pictures[-1]
        assert last.number is not None
        assert last.number > 2 * last.pts // STEP
        state = standin.state()
        replaced = state["frames"]["replaced"]
        assert replaced > 20
        assert state["queues"]["video_labels"] >= replaced - 3
        assert state["retained_bytes"] > 20 * 13 * 128 * 128


async def test_without_the_pairing_bug_overload_drops_but_names_rightly() -> None:
    """With the bug off, every output carries the timestamp of the picture it shows."""
    faults = Faults(process_ms=(50,), pairing_bug=False)
    async with ComfyStreamStandIn(faults=faults) as standin, connect(standin.url, PASS) as peer:
        await peer.stream(range(150), fps=60)
        await peer.wait_pictures(8)
        first = peer.pictures[0]
        assert first.number is not None
        for returned in peer.pictures:
            assert returned.number is not None
            assert returned.pts - first.pts == (returned.number - first.number) * STEP
        state = standin.state()
        assert state["queues"]["video_labels"] < state["frames"]["replaced"] / 2
