-- why: the catalog says which shards exist, which one owns each slot, and where their nodes answer. Everybody keeps the
--      map in memory, so the catalog may be down at any time; only changes of the map need it.

create table shards (
  id           text primary key check (id ~ '^[a-z0-9][a-z0-9-]{0,31}$'),
  database_url text not null,
  -- The newest timeline that nodes have found; 0 before the first. A failover begins a new one, and a primary that was
  -- replaced still takes itself for one when it comes back. A node that can reach only that one learns here to refuse it.
  -- It only rises, but for a shard that was restored on purpose (after-restore).
  timeline     integer not null default 0 check (timeline >= 0),
  created_at   timestamptz not null default now()
);

-- R2: the primary key and the foreign key give every slot at most one owner; `npm run migrate` fills all 4096.
create table slots (
  slot     smallint primary key check (slot between 0 and 4095),
  shard_id text not null references shards
);

-- One row. Rises with every change of an owner, so that everybody can tell which of two maps is newer.
create table map_version (
  singleton boolean primary key default true check (singleton),
  version   bigint not null
);
insert into map_version (version) values (0);

-- Nodes announce themselves and keep `seen_at` fresh; the map leaves out those not seen for a while.
create table nodes (
  url        text primary key,
  shard_id   text not null references shards,
  started_at timestamptz not null default now(),
  seen_at    timestamptz not null default now()
);
