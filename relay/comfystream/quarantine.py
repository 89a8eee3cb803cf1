"""When a ComfyStream server may be given prompts again, after how it was left the last time.

Warming a workflow up waits without a limit for the pictures it put in. A late clean-up of the
client before, or a dead one that still takes pictures, makes it wait for ever, and every later
offer with prompts behind it, until the process is restarted. What is known to be safe (measured):
one second after a clean goodbye (75 of 75; 0.3 s: 2 of 68 hung), and 40 s after a client vanished
(it is missed after 24 to 36 s; an offer before that hung in 6 of 7 runs).

Pure: times come from outside, nothing here waits or asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from relay.comfystream.server_probe import ServerAnswer
from relay.errors import ProcessingError


@dataclass(frozen=True, slots=True)
class QuarantineRules:
    """How long is long enough, in seconds."""

    settle_s: float = 1.0
    """For which the server has listed nobody, after a client has left. Not from the goodbye: a
    server that stood still handles it when it goes on."""
    quarantine_s: float = 40.0
    """After a client may have vanished without one."""
    wedged_retry_s: float = 300.0
    """Between two offers to a server that did not answer one. Each hangs in it for good."""
    probe_interval_s: float = 1.0
    """Between two questions while waiting. Shorter than a restart takes (7-10 s, measured), so
    that one is seen."""
    probe_timeout_s: float = 2.0


class Phase(StrEnum):
    """How far our client is in its use of the server."""

    IDLE = "idle"
    OFFERED = "offered"
    """An offer is under way: the workflow may be loading."""
    ANSWERED = "answered"
    """The server has a client of ours, and lists it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do now: ask the server (again) after `wait_s`, or, with 0, go ahead."""

    wait_s: float
    reason: ProcessingError | None = None
    """Why, where that is worth telling."""


@dataclass(slots=True)
class ServerRecord:
    """What is remembered about one server. Times are monotonic seconds."""

    phase: Phase = Phase.IDLE
    left_at: float | None = None
    """When we were gone from it the last time; None if there is nothing to wait for."""
    abandoned: bool = False
    """We left in the middle of an offer, of which the server's list knows nothing yet."""
    wedged_at: float | None = None
    """When it failed to answer an offer."""
    in_use_since: float | None = None
    """Since when it was seen to list a client, without a break; None if it does not."""
    free_since: float | None = None
    """Since when it was seen to list none, without a break."""
    lingered: bool = False
    """A client was listed for longer than the goodbye of ours would have needed."""

    def begin_offer(self) -> None:
        """An offer leaves."""
        self.phase = Phase.OFFERED

    def answered(self) -> None:
        """The offer was answered: a client of ours is on the server."""
        self.phase = Phase.ANSWERED
        self.forget()

    def refused(self) -> None:
        """The offer was refused, or never reached the server: nothing of us is there."""
        self.phase = Phase.IDLE
        self.forget()

    def unanswered(self, now: float) -> None:
        """The offer's time is over: it hangs, as far as can be told."""
        self.wedged_at = now
        self.leave(now)

    def leave(self, now: float) -> None:
        """We are gone: said goodbye, broke off, or were cut off. Whether the goodbye got through
        is told by the server's list."""
        if self.phase is not Phase.IDLE:
            self.abandoned = self.phase is Phase.OFFERED
            self.left_at = now
            self.lingered = False
            self.in_use_since = self.free_since = None
            self.phase = Phase.IDLE

    def forget(self) -> None:
        """The process is a new one, or has shown that it is well."""
        self.left_at = self.wedged_at = self.in_use_since = self.free_since = None
        self.abandoned = self.lingered = False

    def note(self, answer: ServerAnswer, now: float, rules: QuarantineRules) -> None:
        """The server was asked, and this is what it said."""
        if answer is ServerAnswer.GONE:
            self.forget()
        if answer is ServerAnswer.IN_USE:
            self.in_use_since = now if self.in_use_since is None else self.in_use_since
            self.lingered |= now - self.in_use_since >= rules.settle_s
        else:
            self.in_use_since = None
        if answer is ServerAnswer.FREE:
            self.free_since = now if self.free_since is None else self.free_since
        else:
            self.free_since = None

    def unsafe_for_s(self, now: float, rules: QuarantineRules) -> float:
        """Seconds for which the server is better not given to anybody new: it hangs, or was left
        in the middle of an offer."""
        waits = [0.0]
        if self.wedged_at is not None:
            waits.append(self.wedged_at + rules.wedged_retry_s - now)
        if self.left_at is not None and self.abandoned:
            waits.append(self.left_at + rules.quarantine_s - now)
        return max(waits)

    def judge(self, answer: ServerAnswer, now: float, rules: QuarantineRules) -> Verdict:
        """What an answer that was noted means for an offer with prompts.

        Args:
            answer: FREE, IN_USE or UNTOLD.
        """
        if self.wedged_at is not None:
            remaining_s = self.wedged_at + rules.wedged_retry_s - now
            if remaining_s > 0:
                return Verdict(min(remaining_s, rules.probe_interval_s), _wedged(remaining_s))
        quarantine_s = 0.0
        if self.left_at is not None:
            quarantine_s = max(0.0, self.left_at + rules.quarantine_s - now)
        if answer is ServerAnswer.IN_USE:
            if not self.lingered:
                return Verdict(rules.settle_s / 4)
            reason = _quarantined(quarantine_s) if quarantine_s else _busy()
            return Verdict(rules.probe_interval_s, reason)
        unclean = self.abandoned or self.lingered or answer is ServerAnswer.UNTOLD
        if quarantine_s and unclean:
            return Verdict(min(quarantine_s, rules.probe_interval_s), _quarantined(quarantine_s))
        if self.free_since is not None and (quarantine_s or self.lingered):
            return Verdict(max(0.0, self.free_since + rules.settle_s - now))
        return Verdict(0.0)


def _wedged(remaining_s: float) -> ProcessingError:
    return ProcessingError(
        "ComfyStream did not answer an offer in time: it hangs, as it does after a client vanished,"
        f" and needs a restart; asked again at once after that, otherwise in {remaining_s:.0f} s",
        code="comfystream_wedged",
    )


def _busy() -> ProcessingError:
    return ProcessingError(
        "ComfyStream's pipeline is in use by somebody else (its /streams/stats lists a stream), and"
        " serves one at a time; waiting until it is free",
        code="comfystream_busy",
    )


def _quarantined(remaining_s: float) -> ProcessingError:
    return ProcessingError(
        "ComfyStream may still hold a client of ours that vanished without a goodbye; an offer"
        f" before it is missed would hang it: waiting, {remaining_s:.0f} s or until it restarts",
        code="comfystream_quarantined",
    )
