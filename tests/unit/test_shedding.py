"""What goes first, what comes back first, and how long that takes."""

from __future__ import annotations

from relay.observe.load_meter import CODEC_WAIT_LIMIT_S, Load
from relay.session.shedding import LONGEST_PATIENCE_S, PATIENCE_S, Shed, Shedding, Step

OVERLOADED = Load(cpu=1.0, codec_wait_s=2 * CODEC_WAIT_LIMIT_S)
BUSY = Load(cpu=0.7, codec_wait_s=0.7 * CODEC_WAIT_LIMIT_S)
FULL = Load(cpu=0.89, codec_wait_s=0.1 * CODEC_WAIT_LIMIT_S)
CALM = Load(cpu=0.5, codec_wait_s=0.1 * CODEC_WAIT_LIMIT_S)
IDLE = Load(cpu=0.2)


class Relay:
    """Sessions under a shedding, a second at a time."""

    def __init__(self, *sessions: str, viewers: bool = True) -> None:
        self.shedding = Shedding()
        self.sessions = list(sessions)
        self.unwilling: set[str] = set()
        self.viewers = viewers

    def second(self, load: Load) -> list[Step]:
        willing = [session for session in self.sessions if session not in self.unwilling]
        return self.shedding.look(load, self.sessions, willing=willing, viewers=self.viewers)

    def seconds(self, load: Load, count: int) -> list[Step]:
        return [step for _ in range(count) for step in self.second(load)]

    def until_step(self, load: Load, *, most_s: int = 1000) -> tuple[int, list[Step]]:
        for passed_s in range(1, most_s):
            if steps := self.second(load):
                return passed_s, steps
        raise AssertionError("nothing happens")


def frames(session: str, *, on: bool) -> Step:
    return Step(Shed.FRAMES, on, session)


def previews(*, on: bool) -> Step:
    return Step(Shed.PREVIEWS, on)


def test_previews_go_first_then_the_newest_and_back_in_reverse() -> None:
    """The oldest session suffers last and least; then there is nothing more to leave out."""
    relay = Relay("old", "middle", "new")
    gone = relay.seconds(OVERLOADED, 60)
    assert gone == [
        previews(on=True),
        *(frames(name, on=True) for name in ("new", "middle", "old")),
    ]
    assert relay.shedding.sessions == ["new", "middle", "old"]
    back = relay.seconds(CALM, 200)
    assert back == [
        *(frames(name, on=False) for name in ("old", "middle", "new")),
        previews(on=False),
    ]
    assert not relay.shedding.previews
    assert relay.shedding.sessions == []


def test_a_hiccup_is_nobody_s_loss() -> None:
    """Three bad seconds, or every other one, leave everything as it is."""
    relay = Relay("a", "b")
    assert relay.seconds(OVERLOADED, 3) == []
    assert relay.seconds(CALM, 5) == []
    for _ in range(20):
        assert relay.second(OVERLOADED) == []
        assert relay.second(CALM) == []


def test_each_step_has_time_to_show() -> None:
    """Four seconds at least from one to the next."""
    relay = Relay("a", "b", "c")
    assert relay.until_step(OVERLOADED)[0] == 4
    for _ in range(3):
        assert relay.until_step(OVERLOADED)[0] >= 4


def test_where_nobody_looks_previews_cost_no_time() -> None:
    """They go together with the first frames."""
    relay = Relay("a", "b", viewers=False)
    assert relay.until_step(OVERLOADED)[1] == [previews(on=True), frames("b", on=True)]


def test_who_wants_every_frame_keeps_them() -> None:
    """Others give theirs, or nobody does."""
    relay = Relay("a", "complete")
    relay.unwilling.add("complete")
    assert relay.seconds(OVERLOADED, 30) == [previews(on=True), frames("a", on=True)]


def test_nothing_comes_back_while_it_is_needed() -> None:
    """Neither while things still wait, nor while the CPU has no room for it."""
    relay = Relay("a", "b")
    relay.seconds(OVERLOADED, 8)
    assert relay.seconds(BUSY, 100) == []
    assert relay.seconds(FULL, 100) == []
    assert relay.until_step(CALM)[1] == [frames("b", on=False)]


def test_what_goes_again_and_again_comes_back_more_rarely() -> None:
    """Ten seconds, twenty, forty, eighty and no longer; after a quiet time ten again."""
    relay = Relay("a", viewers=False)
    relay.seconds(OVERLOADED, 4)
    waits = []
    for _ in range(6):
        waits.append(relay.until_step(IDLE)[0])
        relay.until_step(OVERLOADED)
    assert waits[0] == PATIENCE_S
    assert waits[1:5] == [20, 40, 80, LONGEST_PATIENCE_S]
    relay.seconds(IDLE, 300)
    relay.until_step(OVERLOADED)
    assert relay.until_step(IDLE)[0] == PATIENCE_S


def test_sessions_come_and_go() -> None:
    """One that ended is no longer left out; one that came is the newest."""
    relay = Relay("a", "b", viewers=False)
    relay.until_step(OVERLOADED)
    relay.sessions.remove("b")
    relay.sessions.append("c")
    assert relay.until_step(OVERLOADED)[1] == [frames("c", on=True)]
    assert relay.shedding.sessions == ["c"]
    relay.sessions.clear()
    assert relay.seconds(CALM, 30) == [previews(on=False)]
