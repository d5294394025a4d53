"""Schema `marts` -> people and machines; reads nothing else, and as the reader.

marts --export.py--> Parquet        marts --queries.py--> the summary of a run, `pulse query`
marts --app.py--> the page, its API (api.py, events.py), ListenBrainz' (listenbrainz/), docs, health, metrics
scrobblers --listenbrainz/ingest.py, intake.py--> where the command says; tokens and what plays now in schema `app`
"""
