-- why: what the read side knows of all shards, in tables that answer its questions. Nothing here is the truth, so there are no
--      migrations: when this file changes, VIEWS_VERSION (tables.ts) rises, and everything is filled anew beside the old tables,
--      then swapped (docs/decisions/0024-read-side.md). The tables lie in a schema that the one who runs this chooses.
--
--      Rows of bookings and what is counted of them can be spread over several databases by the hash of the user: every number
--      here is a sum over bookings, or over users.

create table about (
  singleton boolean primary key default true check (singleton),
  version   integer not null,
  -- Names this filling of the tables: whoever writes says which one is meant. Null for the moment in which another replaces it.
  build     uuid
);

-- How far each shard's log is in. Changed by the statement that writes the rows, so each change counts exactly once.
create table positions (
  shard    text primary key,
  position bigint not null,
  -- How far the copy of the shard has come; null once it is whole.
  copied   text,
  -- By the clock of the shard's database: all that was committed until then is in. Null while nothing can be said.
  as_of    timestamptz
) with (fillfactor = 10);

-- The status is a rank: 0 held, 1 expired, 2 confirmed, 3 cancelled. A booking only ever goes up: an expired hold may still be
-- confirmed, and a cancelled booking is nothing else any more. So copy and log may overlap, in whatever order they come.
create table bookings (
  user_id       text collate "C" not null,
  id            uuid not null,
  event_id      uuid not null,
  quantity      smallint not null,
  status        smallint not null check (status between 0 and 3),
  -- What it was before the last statement changed it: the statement counts by that.
  status_before smallint check (status_before < status),
  expires_at    timestamptz,
  created_at    timestamptz not null,
  updated_at    timestamptz not null,
  confirmed_at  timestamptz,
  -- Serves a user's list, newest first: ids carry their time.
  primary key (user_id, id)
);
-- Serves an event's list.
create index bookings_of_event on bookings (event_id, id);

create table events (
  id        uuid primary key,
  version   bigint not null,
  available integer not null,
  -- Null while only a batch has told of the event.
  total     integer
) with (fillfactor = 50);

-- Tickets by status, and users who have confirmed tickets.
create table sales (
  event_id  uuid primary key,
  held      bigint not null,
  expired   bigint not null,
  confirmed bigint not null,
  cancelled bigint not null,
  buyers    bigint not null
) with (fillfactor = 50);

-- Confirmed bookings of each user for each event: the change of `buyers` is seen in it.
create table buyers (
  event_id        uuid not null,
  user_id         text collate "C" not null,
  bookings        integer not null,
  bookings_before integer not null default 0,
  primary key (event_id, user_id)
);

-- Tickets by the minute in which they became confirmed, and in which they were cancelled.
create table minutes (
  event_id  uuid not null,
  minute    timestamptz not null,
  confirmed bigint not null,
  cancelled bigint not null,
  primary key (event_id, minute)
) with (fillfactor = 50);
