"""A session: what it was asked for, its states, what is told of it; and all of them."""
