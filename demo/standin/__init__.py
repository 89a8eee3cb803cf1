"""A stand-in for a ComfyStream server: its behaviour, queues and faults, without its models.

It follows livepeer/comfystream v0.1.8: one pipeline a process, two senders on stock aiortc, a
serial worker behind an input queue of one, and the labels that pair outputs with timestamps by
position. Where ComfyStream loses frames, misnames them, freezes or hangs, so does this, by the
same mechanism. What the real server does not have is under ``/standin/``: faults to inject while
it runs, and the truth about what happened inside.

    offer:  routes -> connection -> pipeline -> runner -> engine -> nodes
    frame:  connection -> tracks -> stream_media -> engine -> stream_media -> return_path
"""

from demo.standin.faults import Faults
from demo.standin.server import ComfyStreamStandIn
from demo.standin.settings import StandInSettings

__all__ = ["ComfyStreamStandIn", "Faults", "StandInSettings"]
