"""Sources -> schema `raw`, by dlt. One package a source; `pipeline.py` says where and how to land.

ListenBrainz API --listenbrainz/--+
export files     --exports/-------+--> raw.listens, raw.quarantine, raw.listen_counts
invented listens --synthetic/-----+
"""
