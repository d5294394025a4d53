"""Music Pulse: the command, the settings and what every package shares.

ListenBrainz, exports, synthetic --extract--> raw --dbt_project--> marts --serving--> Parquet, people
"""

__version__ = "0.1.0"
