"""The demo's words: where to look, one line a second, and a summary."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

from demo.frame_tally import TallySummary


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where things are while the demo runs."""

    input_url: str
    output_url: str
    relay_url: str
    session_id: str

    @property
    def status_url(self) -> str:
        return f"{self.relay_url}/session/{self.session_id}/status"


def introduction(source: str, addresses: Addresses, log_directory: str) -> str:
    """What is running and where to look at it.

    Args:
        source: what goes in, in words.
    """
    python = os.path.relpath(sys.executable)
    return "\n".join(
        [
            f"{source} goes in; ComfyStream (a stand-in) inverts it; it comes out again.",
            "",
            f"  input     {addresses.input_url}",
            f"  output    {addresses.output_url}",
            f"  status    {addresses.status_url}",
            f"  page      {addresses.relay_url}/   (both pictures, in a browser)",
            f"  watch     {python} -m demo.watch {addresses.output_url} | ffplay -i -",
            f"  logs      {log_directory}",
            "",
        ]
    )


def live_line(
    elapsed_s: float,
    session: dict[str, Any] | None,
    fps: tuple[float, float],
    delay_ms: dict[str, float] | None,
    summary: TallySummary,
) -> str:
    """One second of the demo.

    Args:
        session: the `session` object of the status; None if the relay did not answer.
        fps: frames per second that the demo itself counts on the input and output channel.
        delay_ms: percentiles over the last seconds, measured on the channels.
    """
    minutes, seconds = divmod(int(elapsed_s), 60)
    parts = [f"{minutes:02d}:{seconds:02d}"]
    if session is None:
        parts.append(f"{'no answer':<20}")
    else:
        parts.append(f"{session['status'] + ', ' + session['webrtc_state']:<20}")
    parts.append(f"in {fps[0]:4.1f} fps")
    parts.append(f"out {fps[1]:4.1f} fps")
    if delay_ms is None:
        parts.append("delay  -")
    else:
        parts.append(f"delay {delay_ms['p50']:.1f} ms (p95 {delay_ms['p95']:.1f})")
    if session is not None:
        parts.append("queues " + "/".join(str(size) for size in session["queue_sizes"].values()))
    parts.append(f"lost {summary.lost}")
    if session is not None and (problem := problem_of(session)):
        parts.append(problem)
    return "  ".join(parts)


def problem_of(session: dict[str, Any]) -> str | None:
    """What the session's status says is wrong."""
    error = session.get("error") or session.get("processing", {}).get("error")
    return str(error) if error else None


def summary_lines(summary: TallySummary, audio: TallySummary, *, numbered: bool) -> str:
    """What became of the frames.

    Args:
        numbered: the source draws numbers into its pictures, so that contents were checked.
    """
    lines = [
        "",
        f"frames   {summary.delivered} of {summary.input_frames} came out since the first one:"
        f" {summary.lost} lost, {summary.duplicated} twice, {summary.out_of_order} out of order,"
        f" {summary.foreign} with a timestamp the input does not have",
    ]
    if numbered:
        compared = summary.verified + summary.mislabelled + summary.unreadable
        lines.append(
            f"content  {compared} pictures compared by the number drawn in them:"
            f" {summary.inverted} inverted, {summary.mislabelled} under the wrong timestamp,"
            f" {summary.unreadable} unreadable"
        )
    if audio.delivered:
        lines.append(f"sound    {audio.delivered} packets came out, {audio.lost} lost")
    delays = [summary.delay_ms(percent) for percent in (50, 95, 99)]
    if delays[0] is not None:
        lines.append(
            "delay    p50 {:.1f} ms, p95 {:.1f} ms, p99 {:.1f} ms, from the last byte of a frame"
            " on the input to its last byte on the output".format(*delays)
        )
    return "\n".join(lines)
