-- What the server keeps, in schema app, written by its own login. `pulse forget` erases by user_name and user_key.

-- A token is a random UUID (122 bits), so one SHA-256 is hash enough. A row is found by the first half of the hash;
-- the second half is compared in constant time.
create table if not exists app.tokens (
    selector bytea primary key check (length(selector) = 16),
    verifier bytea not null check (length(verifier) = 16),
    user_name text not null,
    user_key text not null,
    created_at timestamptz not null default now()
);
create index if not exists tokens_user_key on app.tokens (user_key);

-- What somebody hears right now; never a listen. Whoever reads it leaves out what has expired.
create table if not exists app.playing_now (
    user_key text primary key,
    user_name text not null,
    artist_name text not null,
    track_name text not null,
    track_metadata text not null,
    started_at timestamptz not null default now(),
    expires_at timestamptz not null
);
