"""Schema `marts` -> people and machines; reads nothing else, and as the reader.

marts --export.py--> Parquet        marts --queries.py--> the summary of a run, `pulse query`
"""
