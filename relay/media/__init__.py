"""From MPEG-TS bytes to frames and back: demux, decode, encode, mux, and the time of it all."""
