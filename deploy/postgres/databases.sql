-- The databases of others on the stack's Postgres, made with it. The warehouse's own is POSTGRES_DB.
create database airflow;
create database registry;
