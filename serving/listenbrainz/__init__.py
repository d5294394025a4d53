"""ListenBrainz' API, rooted at /1/: what its clients read and send, in its shapes, words and status codes."""
