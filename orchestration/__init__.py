"""When: the Airflow DAGs, and how Cosmos renders the dbt graph. Its parts come with the schedule."""
