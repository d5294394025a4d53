"""When: the Airflow DAGs (dags/), what they share, and how Cosmos renders the dbt graph.

The tasks call the functions of the command (music_pulse); no rule of the data lives here.
"""
