"""The trickle and media pieces of the relay, for programs of your own."""
