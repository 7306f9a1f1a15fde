create table map_version (
  singleton boolean not null default true,
  version bigint not null
);
create table nodes (
  url text not null,
  shard_id text not null,
  started_at timestamp with time zone not null default now(),
  seen_at timestamp with time zone not null default now()
);
create table shards (
  id text not null,
  database_url text not null,
  timeline integer not null default 0,
  created_at timestamp with time zone not null default now()
);
create table slots (
  slot smallint not null,
  shard_id text not null
);

alter table map_version add constraint map_version_singleton_check CHECK (singleton);
alter table map_version add constraint map_version_pkey PRIMARY KEY (singleton);
alter table nodes add constraint nodes_shard_id_fkey FOREIGN KEY (shard_id) REFERENCES shards(id);
alter table nodes add constraint nodes_pkey PRIMARY KEY (url);
alter table shards add constraint shards_id_check CHECK ((id ~ '^[a-z0-9][a-z0-9-]{0,31}$'::text));
alter table shards add constraint shards_timeline_check CHECK ((timeline >= 0));
alter table shards add constraint shards_pkey PRIMARY KEY (id);
alter table slots add constraint slots_slot_check CHECK (((slot >= 0) AND (slot <= 4095)));
alter table slots add constraint slots_shard_id_fkey FOREIGN KEY (shard_id) REFERENCES shards(id);
alter table slots add constraint slots_pkey PRIMARY KEY (slot);

CREATE UNIQUE INDEX map_version_pkey ON public.map_version USING btree (singleton);
CREATE UNIQUE INDEX nodes_pkey ON public.nodes USING btree (url);
CREATE UNIQUE INDEX shards_pkey ON public.shards USING btree (id);
CREATE UNIQUE INDEX slots_pkey ON public.slots USING btree (slot);
