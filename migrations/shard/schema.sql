create table bookings (
  id uuid not null,
  slot smallint not null,
  event_id uuid not null,
  user_id text not null,
  quantity smallint not null,
  status text not null,
  expires_at timestamp with time zone,
  idempotency_key text not null,
  created_at timestamp with time zone not null,
  updated_at timestamp with time zone not null,
  confirmed_at timestamp with time zone
);
create table changes (
  "position" bigint not null,
  at timestamp with time zone not null,
  events uuid[] not null,
  versions bigint[] not null,
  available integer[] not null,
  event json,
  held uuid[],
  confirmed uuid[],
  cancelled uuid[],
  expired uuid[]
) partition by LIST ((("position" % (8)::bigint)));
create table changes_dropped (
  singleton boolean not null default true,
  until bigint not null,
  timeline integer not null,
  truncated bigint not null
);
create table event_ids (
  id uuid not null
);
create table event_keys (
  organizer text not null,
  idempotency_key text not null,
  event_id uuid not null,
  content text not null
);
create table events (
  id uuid not null,
  slot smallint not null,
  name text not null,
  venue text,
  starts_at timestamp with time zone not null,
  sales_start_at timestamp with time zone,
  sales_end_at timestamp with time zone,
  total_tickets integer not null,
  available_tickets integer not null,
  max_per_user smallint not null,
  highest_max_per_user smallint not null,
  status text not null default 'on_sale'::text,
  version bigint not null default 1,
  created_at timestamp with time zone not null,
  updated_at timestamp with time zone not null,
  owner_id text,
  intake text not null default 'direct'::text
) with (fillfactor=50);
create table log_places (
  follower text not null,
  "position" bigint not null,
  holder uuid not null,
  held_until timestamp with time zone not null,
  timeline integer not null
);
create table owned_slots (
  slot smallint not null,
  map_version bigint not null
);
create table request_outcomes (
  booking_id uuid not null,
  outcome text not null,
  number integer,
  max_per_user integer,
  granted_id uuid
);
create table slots_token (
  singleton boolean not null default true,
  token bigint not null
);
create table webhook_deliveries (
  webhook_id uuid not null,
  "position" bigint not null,
  subject uuid not null,
  at timestamp with time zone not null,
  status text,
  event json,
  tries smallint not null default 0,
  due_at timestamp with time zone not null
);
create table webhooks (
  id uuid not null,
  event_id uuid not null,
  place smallint not null,
  url text not null,
  host text not null,
  types text[] not null,
  secret text not null,
  after bigint not null,
  waiting integer not null default 0,
  failing boolean not null default false,
  tried_at timestamp with time zone not null default '-infinity'::timestamp with time zone
);
create table webhooks_place (
  singleton boolean not null default true,
  "position" bigint not null
);

create table changes_0 partition of changes FOR VALUES IN ('0') with (autovacuum_enabled=off);
create table changes_1 partition of changes FOR VALUES IN ('1') with (autovacuum_enabled=off);
create table changes_2 partition of changes FOR VALUES IN ('2') with (autovacuum_enabled=off);
create table changes_3 partition of changes FOR VALUES IN ('3') with (autovacuum_enabled=off);
create table changes_4 partition of changes FOR VALUES IN ('4') with (autovacuum_enabled=off);
create table changes_5 partition of changes FOR VALUES IN ('5') with (autovacuum_enabled=off);
create table changes_6 partition of changes FOR VALUES IN ('6') with (autovacuum_enabled=off);
create table changes_7 partition of changes FOR VALUES IN ('7') with (autovacuum_enabled=off);

create sequence changes_position minvalue 0;

alter table bookings add constraint bookings_quantity_check CHECK (((quantity >= 1) AND (quantity <= 100)));
alter table bookings add constraint bookings_status_check CHECK ((status = ANY (ARRAY['held'::text, 'confirmed'::text, 'cancelled'::text, 'expired'::text])));
alter table bookings add constraint bookings_user_id_check CHECK (((char_length(user_id) >= 1) AND (char_length(user_id) <= 255))) NOT VALID;
alter table bookings add constraint holds_expire CHECK (((status <> ALL (ARRAY['held'::text, 'expired'::text])) OR (expires_at IS NOT NULL)));
alter table bookings add constraint r1_id_carries_slot CHECK (((((get_byte(uuid_send(id), 6) % 16) * 256) + get_byte(uuid_send(id), 7)) = slot));
alter table bookings add constraint bookings_event_id_fkey FOREIGN KEY (event_id) REFERENCES event_ids(id);
alter table bookings add constraint bookings_pkey PRIMARY KEY (id);
alter table changes_0 add constraint changes_0_pkey PRIMARY KEY ("position");
alter table changes_1 add constraint changes_1_pkey PRIMARY KEY ("position");
alter table changes_2 add constraint changes_2_pkey PRIMARY KEY ("position");
alter table changes_3 add constraint changes_3_pkey PRIMARY KEY ("position");
alter table changes_4 add constraint changes_4_pkey PRIMARY KEY ("position");
alter table changes_5 add constraint changes_5_pkey PRIMARY KEY ("position");
alter table changes_6 add constraint changes_6_pkey PRIMARY KEY ("position");
alter table changes_7 add constraint changes_7_pkey PRIMARY KEY ("position");
alter table changes_dropped add constraint changes_dropped_singleton_check CHECK (singleton);
alter table changes_dropped add constraint changes_dropped_pkey PRIMARY KEY (singleton);
alter table event_ids add constraint event_ids_pkey PRIMARY KEY (id);
alter table event_keys add constraint event_keys_event_id_fkey FOREIGN KEY (event_id) REFERENCES event_ids(id) DEFERRABLE INITIALLY DEFERRED;
alter table event_keys add constraint b12_one_event_per_key PRIMARY KEY (organizer, idempotency_key);
alter table events add constraint b1_never_oversold CHECK (((available_tickets >= 0) AND (available_tickets <= total_tickets)));
alter table events add constraint b3_highest_limit CHECK ((highest_max_per_user >= max_per_user));
alter table events add constraint events_intake_check CHECK ((intake = ANY (ARRAY['direct'::text, 'queue'::text])));
alter table events add constraint events_max_per_user_check CHECK (((max_per_user >= 1) AND (max_per_user <= 100)));
alter table events add constraint events_name_check CHECK (((char_length(name) >= 1) AND (char_length(name) <= 200)));
alter table events add constraint events_owner_id_check CHECK (((char_length(owner_id) >= 1) AND (char_length(owner_id) <= 255)));
alter table events add constraint events_slot_check CHECK (((slot >= 0) AND (slot <= 4095)));
alter table events add constraint events_status_check CHECK ((status = ANY (ARRAY['on_sale'::text, 'paused'::text, 'closed'::text])));
alter table events add constraint events_total_tickets_check CHECK (((total_tickets >= 1) AND (total_tickets <= 10000000)));
alter table events add constraint events_venue_check CHECK (((char_length(venue) >= 1) AND (char_length(venue) <= 200)));
alter table events add constraint sales_window_is_ordered CHECK ((sales_start_at < sales_end_at));
alter table events add constraint events_id_fkey FOREIGN KEY (id) REFERENCES event_ids(id);
alter table events add constraint events_pkey PRIMARY KEY (id);
alter table log_places add constraint log_places_pkey PRIMARY KEY (follower);
alter table owned_slots add constraint owned_slots_slot_check CHECK (((slot >= 0) AND (slot <= 4095)));
alter table owned_slots add constraint owned_slots_pkey PRIMARY KEY (slot);
alter table request_outcomes add constraint q1_granted_with_booking CHECK (((outcome = ANY (ARRAY['booked'::text, 'held'::text, 'replayed'::text])) = (granted_id IS NOT NULL)));
alter table request_outcomes add constraint q1_own_booking CHECK (((outcome <> ALL (ARRAY['booked'::text, 'held'::text])) OR (granted_id = booking_id)));
alter table request_outcomes add constraint q1_decided_once PRIMARY KEY (booking_id);
alter table slots_token add constraint slots_token_singleton_check CHECK (singleton);
alter table slots_token add constraint slots_token_pkey PRIMARY KEY (singleton);
alter table webhook_deliveries add constraint webhook_deliveries_webhook_id_fkey FOREIGN KEY (webhook_id) REFERENCES webhooks(id) ON DELETE CASCADE;
alter table webhook_deliveries add constraint webhook_deliveries_pkey PRIMARY KEY (webhook_id, "position", subject);
alter table webhooks add constraint j13_bounded_backlog CHECK (((waiting >= 0) AND (waiting <= 100000)));
alter table webhooks add constraint j9_few_webhooks CHECK (((place >= 1) AND (place <= 5)));
alter table webhooks add constraint webhooks_types_check CHECK ((cardinality(types) > 0));
alter table webhooks add constraint webhooks_url_check CHECK (((char_length(url) >= 1) AND (char_length(url) <= 2048)));
alter table webhooks add constraint webhooks_event_id_fkey FOREIGN KEY (event_id) REFERENCES event_ids(id);
alter table webhooks add constraint webhooks_pkey PRIMARY KEY (id);
alter table webhooks add constraint j9_few_webhooks_of_an_event UNIQUE (event_id, place);
alter table webhooks_place add constraint webhooks_place_singleton_check CHECK (singleton);
alter table webhooks_place add constraint webhooks_place_pkey PRIMARY KEY (singleton);

CREATE UNIQUE INDEX b4_one_booking_per_key ON public.bookings USING btree (event_id, user_id, idempotency_key);
CREATE INDEX bookings_held ON public.bookings USING btree (event_id, expires_at) WHERE (status = 'held'::text);
CREATE UNIQUE INDEX bookings_pkey ON public.bookings USING btree (id);
CREATE UNIQUE INDEX changes_dropped_pkey ON public.changes_dropped USING btree (singleton);
CREATE UNIQUE INDEX event_ids_pkey ON public.event_ids USING btree (id);
CREATE UNIQUE INDEX b12_one_event_per_key ON public.event_keys USING btree (organizer, idempotency_key);
CREATE UNIQUE INDEX events_pkey ON public.events USING btree (id) WITH (deduplicate_items=off);
CREATE UNIQUE INDEX log_places_pkey ON public.log_places USING btree (follower);
CREATE UNIQUE INDEX owned_slots_pkey ON public.owned_slots USING btree (slot);
CREATE UNIQUE INDEX q1_decided_once ON public.request_outcomes USING btree (booking_id);
CREATE UNIQUE INDEX slots_token_pkey ON public.slots_token USING btree (singleton);
CREATE INDEX webhook_deliveries_due ON public.webhook_deliveries USING btree (webhook_id, due_at, "position");
CREATE UNIQUE INDEX webhook_deliveries_pkey ON public.webhook_deliveries USING btree (webhook_id, "position", subject);
CREATE UNIQUE INDEX j9_few_webhooks_of_an_event ON public.webhooks USING btree (event_id, place);
CREATE UNIQUE INDEX webhooks_pkey ON public.webhooks USING btree (id);
CREATE UNIQUE INDEX webhooks_place_pkey ON public.webhooks_place USING btree (singleton);

CREATE OR REPLACE FUNCTION public.acquire_slots(p_slots smallint[], p_token bigint)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
begin
  perform raise_slots_token(p_token);
  insert into owned_slots (slot, map_version) select slot, p_token from unnest(p_slots) as slot
  on conflict do nothing;
end
$function$;
CREATE OR REPLACE FUNCTION public.change_event(p_id uuid, p_slot smallint, p_changes jsonb, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone, p_versions bigint[] DEFAULT NULL::bigint[], p_organizer text DEFAULT NULL::text)
 RETURNS json
 LANGUAGE plpgsql
AS $function$
declare
  v_now  timestamptz;
  v_before events;
  v_row  events;
  v_freed integer;
  v_expired uuid[];
  v_sold integer;
begin
  perform pg_advisory_xact_lock_shared(slots_lock_key());
  if not exists (select from owned_slots o where o.slot = p_slot) then
    return json_build_object('outcome', 'wrong_shard');
  end if;
  select * into v_before from events e where e.id = p_id for update;
  if not found then
    return json_build_object('outcome', 'event_not_found');
  end if;
  if v_before.owner_id is not null and v_before.owner_id is distinct from p_organizer then
    return json_build_object('outcome', 'forbidden');
  end if;
  if v_before.version <> all (p_versions) then
    return json_build_object('outcome', 'version_mismatch', 'snapshots', snapshots_of(array[p_id]));
  end if;
  v_now := coalesce(p_now, now_ms());
  -- A due hold is not sold (B6); without this it could refuse a smaller total.
  with due as (
    update bookings b
    set status = 'expired', updated_at = v_now
    where b.event_id = p_id and b.status = 'held' and b.expires_at <= v_now
    returning b.id, b.quantity
  )
  select coalesce(sum(quantity), 0), array_agg(id) into v_freed, v_expired from due;
  v_sold := v_before.total_tickets - v_before.available_tickets - v_freed;

  v_row := jsonb_populate_record(v_before, p_changes);
  v_row.available_tickets := v_row.total_tickets - v_sold;
  if v_row.available_tickets < 0 or v_row.sales_start_at >= coalesce(v_row.sales_end_at, v_row.starts_at) then
    -- Holds that were due stay expired, so the event must show it.
    update events e
    set available_tickets = e.available_tickets + v_freed, version = e.version + 1, updated_at = v_now
    where e.id = p_id and v_freed > 0;
    if found then
      perform log_event(p_id, v_expired, false);
    end if;
    return json_build_object(
      'outcome', case when v_row.available_tickets < 0 then 'below_sold' else 'invalid_sales_window' end,
      'snapshots', snapshots_of(array[p_id]));
  end if;
  if v_row is not distinct from v_before then
    return json_build_object('outcome', 'saved', 'snapshots', snapshots_of(array[p_id]));
  end if;
  update events e
  set name = v_row.name, venue = v_row.venue, starts_at = v_row.starts_at, sales_start_at = v_row.sales_start_at,
      sales_end_at = v_row.sales_end_at, total_tickets = v_row.total_tickets, intake = v_row.intake,
      available_tickets = v_row.available_tickets, max_per_user = v_row.max_per_user,
      highest_max_per_user = greatest(e.highest_max_per_user, v_row.max_per_user), status = v_row.status,
      version = e.version + 1, updated_at = v_now
  where e.id = p_id;
  v_before.available_tickets := v_row.available_tickets;
  perform log_event(p_id, v_expired, v_row is distinct from v_before);
  return json_build_object('outcome', 'saved', 'snapshots', snapshots_of(array[p_id]));
end
$function$;
CREATE OR REPLACE FUNCTION public.changes_after(p_after bigint, p_bookings_max integer, p_is_place boolean DEFAULT false)
 RETURNS json
 LANGUAGE plpgsql
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_began   timestamptz := clock_timestamp();
  v_settled bigint;
  v_changes json;
  v_last    bigint;
begin
  if exists (select from changes_dropped d where d.timeline <> current_timeline()) then
    perform restart_changes();
  end if;
  v_settled := changes_settled();
  if p_after is null then
    return json_build_object(
      'dropped', false, 'changes', json_build_array(), 'position', least(newest_position(), v_settled), 'asOf', v_began);
  end if;
  select json_agg(json_build_object(
           'position', c.position,
           'at', c.at,
           'events', (
             select json_agg(json_build_object('id', e.id, 'version', e.version, 'availableTickets', e.available))
             from unnest(c.events, c.versions, c.available) as e(id, version, available)),
           'event', c.event,
           'bookings', coalesce((
             select json_agg(json_build_object(
               'id', b.id, 'event_id', b.event_id, 'user_id', b.user_id, 'quantity', b.quantity, 'status', x.status,
               'expires_at', b.expires_at, 'created_at', b.created_at, 'updated_at', c.at) order by x.place)
             from (
               select 1 as place, unnest(c.expired) as id, 'expired' as status
               union all select 2, unnest(c.cancelled), 'cancelled'
               union all select 3, unnest(c.confirmed), 'confirmed'
               union all select 4, unnest(c.held), 'held'
             ) x
             join bookings b on b.id = x.id), '[]'))
           order by c.position),
         max(c.position)
  into v_changes, v_last
  from (
    select n.*, sum(n.size) over (order by n.position) - n.size as before
    from (
      select c.*, coalesce(cardinality(c.expired), 0) + coalesce(cardinality(c.cancelled), 0)
                  + coalesce(cardinality(c.confirmed), 0) + coalesce(cardinality(c.held), 0) as size
      from changes c
      where c.position > p_after and c.position <= v_settled
      order by c.position
      limit p_bookings_max
    ) n
  ) c
  where c.before = 0 or c.before + c.size <= p_bookings_max;
  -- After the changes were read: whatever was dropped meanwhile is missing in them.
  if exists (
    select from changes_dropped d
    where p_after < case when p_is_place then d.truncated else d.until end or p_after > pg_sequence_last_value('changes_position')
  ) then
    return json_build_object('dropped', true, 'changes', json_build_array());
  end if;
  return json_build_object(
    'dropped', false,
    'changes', coalesce(v_changes, '[]'),
    'position', coalesce(v_last, p_after),
    -- Whatever was left out took its position, and was committed, after the moment of the first change that was left out. What
    -- is not left out and not in either was not committed when this began.
    'asOf', coalesce(
      (select least(v_began, c.at - interval '1 millisecond') from changes c
       where c.position > coalesce(v_last, p_after) order by c.position limit 1),
      v_began),
    'lagSeconds', (
      select extract(epoch from clock_timestamp() - c.at) from changes c
      where c.position > p_after order by c.position limit 1));
end
$function$;
CREATE OR REPLACE FUNCTION public.changes_mark()
 RETURNS bigint
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$ select 1::bigint << 62 $function$;
CREATE OR REPLACE FUNCTION public.changes_settled()
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
declare
  v_last   bigint;
  v_marked bigint;
begin
  v_last := pg_sequence_last_value('changes_position');
  select min((l.classid::bigint << 32 | l.objid::bigint) - changes_mark()) into v_marked
  from pg_locks l
  where l.locktype = 'advisory' and l.objsubid = 1
    and l.database = (select d.oid from pg_database d where d.datname = current_database())
    and l.classid::bigint >= changes_mark() >> 32 and l.classid::bigint < 1::bigint << 31;
  return least(v_last, v_marked);
end
$function$;
CREATE OR REPLACE FUNCTION public.create_event(p_id uuid, p_slot smallint, p_name text, p_venue text, p_starts_at timestamp with time zone, p_sales_start_at timestamp with time zone, p_sales_end_at timestamp with time zone, p_total_tickets integer, p_max_per_user integer, p_created_at timestamp with time zone, p_organizer text DEFAULT NULL::text, p_key text DEFAULT NULL::text, p_content text DEFAULT NULL::text)
 RETURNS json
 LANGUAGE plpgsql
AS $function$
declare
  v_first event_keys;
begin
  perform pg_advisory_xact_lock_shared(slots_lock_key());
  if not exists (select from owned_slots o where o.slot = p_slot) then
    return json_build_object('outcome', 'wrong_shard');
  end if;
  if p_sales_start_at >= coalesce(p_sales_end_at, p_starts_at) then
    return json_build_object('outcome', 'invalid_sales_window');
  end if;
  if p_key is not null then
    -- Waits for whoever is creating an event under the same key.
    insert into event_keys (organizer, idempotency_key, event_id, content) values (p_organizer, p_key, p_id, p_content)
    on conflict (organizer, idempotency_key) do nothing;
    if not found then
      select * into v_first from event_keys k where k.organizer = p_organizer and k.idempotency_key = p_key;
      if v_first.content <> p_content then
        return json_build_object('outcome', 'idempotency_key_reused');
      end if;
      return json_build_object('outcome', 'saved', 'snapshots', snapshots_of(array[v_first.event_id]));
    end if;
  end if;
  insert into event_ids (id) values (p_id) on conflict (id) do nothing;
  insert into events
    (id, slot, owner_id, name, venue, starts_at, sales_start_at, sales_end_at, total_tickets, available_tickets, max_per_user,
     highest_max_per_user, created_at, updated_at)
  values
    (p_id, p_slot, p_organizer, p_name, p_venue, p_starts_at, p_sales_start_at, p_sales_end_at, p_total_tickets, p_total_tickets,
     p_max_per_user, p_max_per_user, p_created_at, p_created_at)
  on conflict (id) do nothing;
  if found then
    perform log_event(p_id);
  end if;
  return json_build_object('outcome', 'saved', 'snapshots', snapshots_of(array[p_id]));
end
$function$;
CREATE OR REPLACE FUNCTION public.create_webhook(p_event uuid, p_slot smallint, p_caller text, p_id uuid, p_url text, p_host text, p_types text[], p_secret text)
 RETURNS json
 LANGUAGE plpgsql
AS $function$
declare
  v_refusal json := webhooks_refusal(p_event, p_slot, p_caller);
  v_place   smallint;
begin
  if v_refusal is not null then
    return v_refusal;
  end if;
  while not exists (select from webhooks w where w.id = p_id) loop
    select min(p.place) into v_place
    from generate_series(1, 5) as p(place)
    where not exists (select from webhooks w where w.event_id = p_event and w.place = p.place);
    if v_place is null then
      return json_build_object('outcome', 'too_many_webhooks');
    end if;
    -- Somebody else may take the place meanwhile; then there may be another.
    insert into webhooks (id, event_id, place, url, host, types, secret, after)
    values (p_id, p_event, v_place, p_url, p_host, p_types, p_secret, pg_sequence_last_value('changes_position'))
    on conflict do nothing;
  end loop;
  return (
    select json_build_object('outcome', 'created', 'webhook', json_build_object(
      'id', w.id, 'url', w.url, 'types', w.types, 'secret', w.secret))
    from webhooks w where w.id = p_id and w.event_id = p_event);
end
$function$;
CREATE OR REPLACE FUNCTION public.current_timeline()
 RETURNS integer
 LANGUAGE sql
 STABLE
AS $function$
  select ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer
$function$;
CREATE OR REPLACE FUNCTION public.decide_batch(p_event_ids uuid[], p_event_slots smallint[], p_events integer[], p_users text[], p_quantities integer[], p_hold_seconds integer[], p_keys text[], p_bookings uuid[], p_settle_kinds text[], p_settle_bookings uuid[], p_settle_slots smallint[], p_settle_users text[], p_now timestamp with time zone DEFAULT NULL::timestamp with time zone, p_tell_locked boolean DEFAULT false, p_lock_wait_ms integer DEFAULT NULL::integer, p_doubted uuid[] DEFAULT '{}'::uuid[], p_waits boolean DEFAULT true)
 RETURNS json
 LANGUAGE plpgsql
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_event_ids   uuid[] := p_event_ids;
  -- those that nobody else has locked
  v_free_ids    uuid[];
  v_now         timestamptz;
  v_since       timestamptz := '-infinity';
  v_before      timestamptz;
  v_lock_wait   double precision;
  -- per event, by position
  v_places      tid[];
  v_locked_out  boolean[];
  v_stored      events[];
  v_available   integer[];
  v_max         integer[];
  v_sales_open  boolean[];
  v_owned       boolean[];
  v_changed     boolean[];
  v_plain       boolean[];
  v_left        integer[];
  v_taken       integer[];
  -- per booking command
  v_judged      boolean[];
  v_shares      boolean[];
  v_previous    integer[];
  v_outcomes    text[] := array_fill(null::text, array[cardinality(p_events)]);
  v_numbers     integer[] := array_fill(null::integer, array[cardinality(p_events)]);
  v_any_judged  boolean;
  v_settled     json[] := '{}';
  v_snapshots   json;
  v_outcome     text;
  v_number      integer;
  v_command     record;
  v_booking     bookings;
  v_position    integer;
  v_back        integer;
  -- for the log: events that changed, and bookings by what became of them
  v_events      uuid[];
  v_versions    bigint[];
  v_tickets     integer[];
  v_held        uuid[];
  v_confirmed   uuid[] := '{}';
  v_cancelled   uuid[] := '{}';
  v_expired     uuid[];
  v_logged      bigint;
begin
  perform pg_advisory_xact_lock_shared(slots_lock_key());

  if cardinality(p_settle_bookings) > 0 then
    -- Which event a booking belongs to, and whose it is, never changes, so it can be read before the lock. For somebody else's
    -- booking no lock is taken: the refusal takes as long as that of a booking that does not exist (S3).
    select p_event_ids || coalesce(array_agg(distinct b.event_id), '{}')
    into v_event_ids
    from unnest(p_settle_bookings, p_settle_users) as c(booking, user_id)
    join bookings b on b.id = c.booking and b.user_id = coalesce(c.user_id, b.user_id)
    where b.event_id <> all (p_event_ids);
  end if;

  -- In the order of ids, so that two batches that share events cannot wait for each other in a circle (B1). What a locking
  -- select returns is the row that it locked, however long it waited. `between` because `=` would be scanned from the oldest.
  if p_lock_wait_ms is not null then
    perform set_config('lock_timeout', p_lock_wait_ms::text, true);
  end if;
  v_before := clock_timestamp();
  v_free_ids := v_event_ids;
  if p_waits and cardinality(p_doubted) = 0 then
    select array_agg(e.place order by x.position), array_agg(e.stored order by x.position)
    into v_places, v_stored
    from (select * from unnest(v_event_ids) with ordinality as u(id, position) order by u.id) x
    left join lateral (
      select e.ctid as place, e as stored
      from events e
      where e.id between x.id and x.id
      order by e.id desc
      limit 1
      for update
    ) e on true;
  else
    -- Who does not wait for a lock cannot be part of a circle either.
    select array_agg(coalesce(w.place, f.place) order by x.position),
           array_agg(case when x.waits then w.stored else f.stored end order by x.position)
    into v_places, v_stored
    from (
      select u.id, u.position, p_waits and u.id <> all (p_doubted) as waits
      from unnest(v_event_ids) with ordinality as u(id, position)
      order by u.id
    ) x
    left join lateral (
      select e.ctid as place, e as stored
      from events e
      where x.waits and e.id between x.id and x.id
      order by e.id desc
      limit 1
      for update
    ) w on true
    left join lateral (
      select e.ctid as place, e as stored
      from events e
      where not x.waits and e.id between x.id and x.id
      order by e.id desc
      limit 1
      for update skip locked
    ) f on true;

    select array_agg(x.place is null and exists (select from events e where e.id = x.id) order by x.position)
    into v_locked_out
    from (select unnest(v_event_ids) as id, unnest(v_places) as place, generate_subscripts(v_event_ids, 1) as position) x;

    select coalesce(array_agg(x.id) filter (where not x.locked_out), '{}')
    into v_free_ids
    from unnest(v_event_ids, v_locked_out) as x(id, locked_out);
  end if;
  v_lock_wait := extract(epoch from clock_timestamp() - v_before);
  if p_tell_locked then
    raise notice 'locked';
  end if;
  v_now := coalesce(p_now, now_ms());

  -- Tickets of a due hold are free at this very moment (B6). What changed an event left no hold of it that was due then, so
  -- only later ones are looked for: an old snapshot keeps the index entries of all that have ended. The sweep, which comes
  -- without commands, looks for all, in case somebody has written an earlier end by hand.
  if cardinality(p_events) + cardinality(p_settle_bookings) > 0 then
    select coalesce(min((x.event).updated_at), v_since) into v_since from (select unnest(v_stored) as event) x;
  end if;
  with due as (
    update bookings b
    set status = 'expired', updated_at = v_now
    where b.event_id = any (v_free_ids) and b.status = 'held' and b.expires_at > v_since and b.expires_at <= v_now
    returning b.id, b.event_id, b.quantity
  ), freed as (
    select event_id, sum(quantity) as tickets from due group by event_id
  )
  select array_agg((x.event).available_tickets + coalesce(f.tickets, 0) order by x.position),
         array_agg((x.event).max_per_user order by x.position),
         array_agg((x.event).status = 'on_sale'
                   and ((x.event).sales_start_at is null or (x.event).sales_start_at <= v_now)
                   and coalesce((x.event).sales_end_at, (x.event).starts_at) > v_now order by x.position),
         array_agg(f.tickets is not null order by x.position),
         (select array_agg(id) from due)
  into v_available, v_max, v_sales_open, v_changed, v_expired
  from (select unnest(v_stored) as event, generate_subscripts(v_stored, 1) as position) x
  left join freed f on f.event_id = (x.event).id;

  select array_agg(o.slot is not null order by x.position)
  into v_owned
  from unnest(p_event_slots) with ordinality as x(slot, position)
  left join owned_slots o on o.slot = x.slot;

  for i in 1 .. cardinality(p_settle_bookings) loop
    select * into v_booking from bookings b where b.id = p_settle_bookings[i];
    v_position := array_position(v_event_ids, v_booking.event_id);
    if not exists (select from owned_slots o where o.slot = p_settle_slots[i]) then
      v_outcome := 'wrong_shard';
    elsif v_booking.id is null or v_booking.user_id <> p_settle_users[i] then
      v_outcome := 'booking_not_found';
    elsif v_locked_out[v_position] then
      v_outcome := 'event_locked';
    elsif p_settle_kinds[i] = 'cancel' then
      v_outcome := 'cancelled';
      if v_booking.status <> 'cancelled' then
        if v_booking.status <> 'expired' then
          v_available[v_position] := v_available[v_position] + v_booking.quantity;
        end if;
        v_changed[v_position] := true;
        v_cancelled := v_cancelled || v_booking.id;
        update bookings b set status = 'cancelled', updated_at = v_now where b.id = v_booking.id
        returning * into v_booking;
      end if;
    elsif v_booking.status = 'confirmed' then
      v_outcome := 'confirmed';
    elsif v_booking.status = 'held' and not v_sales_open[v_position] then
      v_outcome := 'sales_not_open';
    elsif v_booking.status = 'held'
      -- An expired hold may claim its tickets again, by the rules of a new booking (B7).
      or v_booking.status = 'expired'
         and v_sales_open[v_position]
         and v_available[v_position] >= v_booking.quantity
         and v_max[v_position] >= v_booking.quantity + (
           select coalesce(sum(b.quantity), 0) from bookings b
           where b.event_id = v_booking.event_id and b.user_id = v_booking.user_id
             and b.status in ('held', 'confirmed'))
    then
      v_outcome := 'confirmed';
      if v_booking.status = 'expired' then
        v_available[v_position] := v_available[v_position] - v_booking.quantity;
      end if;
      v_changed[v_position] := true;
      v_confirmed := v_confirmed || v_booking.id;
      update bookings b set status = 'confirmed', updated_at = v_now where b.id = v_booking.id
      returning * into v_booking;
    else
      v_outcome := 'hold_expired';
    end if;
    v_settled := v_settled || json_build_object(
      'outcome', v_outcome,
      'booking', case when v_outcome in ('confirmed', 'cancelled') then to_json(v_booking) end);
  end loop;
  -- What a booking was for a moment within the batch is no change.
  if cardinality(v_confirmed) + cardinality(v_cancelled) > 0 then
    v_expired := array(select unnest(v_expired) except (select unnest(v_confirmed) union all select unnest(v_cancelled)));
    v_confirmed := array(select unnest(v_confirmed) except select unnest(v_cancelled));
  end if;

  -- An event is plain when everybody who asks for it here could be served. Only then does the order not matter, and a
  -- command needs no judgement of its own unless its user has bookings of the event already.
  select array_agg(w.tickets order by w.event),
         array_agg(coalesce(v_owned[w.event]
                            and v_sales_open[w.event]
                            and w.tickets <= v_available[w.event]
                            and w.largest <= v_max[w.event], false) order by w.event)
  into v_taken, v_plain
  from (
    select c.event, sum(c.quantity)::integer as tickets, max(c.quantity) as largest
    from (select unnest(p_events) as event, unnest(p_quantities) as quantity) c
    group by c.event
  ) w;

  if cardinality(p_events) > 0 and cardinality(v_taken) <> cardinality(p_event_ids) then
    raise exception 'a batch names only events that its commands are for';
  end if;

  -- Commands of one user for one event must see each other's tickets. Counting users is cheaper than grouping, and mostly
  -- enough.
  if (select count(distinct u collate "C") < count(*) from unnest(p_users) as u) then
    select array_agg(x.size > 1 order by x.position), array_agg(x.previous order by x.position)
    into v_shares, v_previous
    from (
      select c.position, count(*) over same as size, lag(c.position) over (same order by c.position) as previous
      from unnest(p_events, p_users) with ordinality as c(event, user_id, position)
      window same as (partition by c.event, c.user_id collate "C")
    ) x;
  end if;

  -- One look for all users in all events finds what must be judged and more, never less. For few events it is the cheaper
  -- question; for many it would only be asked twice.
  v_any_judged := coalesce(false = any (v_plain), false)
    or coalesce(true = any (v_shares), false)
    or cardinality(p_events) < 8 * cardinality(p_event_ids)
    or exists (select from bookings b where b.event_id = any (p_event_ids) and b.user_id = any (p_users));
  if v_any_judged then
    select array_agg(not v_plain[c.event] or coalesce(c.shares, false) or exists (
             select from bookings b where b.event_id = p_event_ids[c.event] and b.user_id = c.user_id))
    into v_judged
    from (select unnest(p_events) as event, unnest(p_users) as user_id, unnest(v_shares) as shares) c;
    v_any_judged := coalesce(true = any (v_judged), false);
  end if;

  if v_any_judged then
    v_left := v_available;
    for v_command in
      select c.position, c.event, c.quantity, c.hold_seconds, c.key, mine.tickets, mine.same_key, mine.same_content
      from unnest(p_events, p_users, p_quantities, p_hold_seconds, p_keys, v_judged)
           with ordinality as c(event, user_id, quantity, hold_seconds, key, judged, position)
      cross join lateral (
        select coalesce(sum(b.quantity) filter (where b.status in ('held', 'confirmed')), 0)::integer as tickets,
               coalesce(bool_or(b.idempotency_key = c.key), false) as same_key,
               bool_and(b.quantity = c.quantity
                        and coalesce(extract(epoch from b.expires_at - b.created_at), 0) = c.hold_seconds)
                 filter (where b.idempotency_key = c.key) as same_content
        from bookings b
        where b.event_id = p_event_ids[c.event] and b.user_id = c.user_id
      ) mine
      where c.judged
      order by c.position
    loop
      v_position := v_command.event;
      v_number := null;
      v_back := v_previous[v_command.position];
      while v_back is not null loop
        if v_outcomes[v_back] is null then
          v_command.tickets := v_command.tickets + p_quantities[v_back];
          if p_keys[v_back] = v_command.key then
            v_command.same_key := true;
            v_command.same_content :=
              p_quantities[v_back] = v_command.quantity and p_hold_seconds[v_back] = v_command.hold_seconds;
          end if;
        end if;
        v_back := v_previous[v_back];
      end loop;
      if not v_owned[v_position] then
        v_outcome := 'wrong_shard';
      elsif v_locked_out[v_position] then
        v_outcome := 'event_locked';
      elsif v_command.same_key then
        v_outcome := case when v_command.same_content then 'replayed' else 'idempotency_key_reused' end;
      elsif v_max[v_position] is null then
        v_outcome := 'event_not_found';
      elsif not v_sales_open[v_position] then
        v_outcome := 'sales_not_open';
      elsif v_left[v_position] = 0 then
        v_outcome := 'sold_out';
      elsif v_command.tickets + v_command.quantity > v_max[v_position] then
        v_outcome := 'user_limit_exceeded';
        v_number := v_command.tickets;
      elsif v_command.quantity > v_left[v_position] then
        v_outcome := 'insufficient_tickets';
        v_number := v_left[v_position];
      else
        -- Only where tickets are scarce can this run out, and there every command comes by here.
        v_left[v_position] := v_left[v_position] - v_command.quantity;
        continue;
      end if;
      v_taken[v_position] := v_taken[v_position] - v_command.quantity;
      v_outcomes[v_command.position] := v_outcome;
      v_numbers[v_command.position] := v_number;
    end loop;
  end if;

  insert into bookings
    (id, slot, event_id, user_id, quantity, status, expires_at, idempotency_key, created_at, updated_at)
  select c.id, p_event_slots[c.event], p_event_ids[c.event], c.user_id, c.quantity,
         case when c.hold_seconds = 0 then 'confirmed' else 'held' end,
         case when c.hold_seconds > 0 then v_now + make_interval(secs => c.hold_seconds) end,
         c.key, v_now, v_now
  from (
    -- In the select list these are read side by side; in the from clause each would be copied first.
    select unnest(p_bookings) as id, unnest(p_events) as event, unnest(p_users) as user_id,
           unnest(p_quantities) as quantity, unnest(p_hold_seconds) as hold_seconds, unnest(p_keys) as key,
           unnest(v_outcomes) as outcome
  ) c
  where c.outcome is null;
  -- Mostly all were granted, and booked at once.
  if not v_any_judged and 0 = all (p_hold_seconds) then
    v_confirmed := v_confirmed || p_bookings;
  else
    select v_confirmed || coalesce(array_agg(c.id) filter (where c.hold_seconds = 0), '{}'),
           array_agg(c.id) filter (where c.hold_seconds > 0)
    into v_confirmed, v_held
    from (select unnest(p_bookings) as id, unnest(p_hold_seconds) as hold_seconds, unnest(v_outcomes) as outcome) c
    where c.outcome is null;
  end if;

  with changed as (
    update events e
    set available_tickets = x.available - coalesce(x.taken, 0), version = e.version + 1, updated_at = v_now
    from unnest(v_places, v_available, v_changed, v_taken) as x(place, available, changed, taken)
    where e.ctid = x.place and (x.changed or x.taken > 0)
    returning e.*
  ), untouched as (
    select (x.event).*
    from (select unnest(v_stored) as event, unnest(v_changed) as changed, unnest(v_taken) as taken) x
    where (x.event).id is not null and not (x.changed or coalesce(x.taken, 0) > 0)
  )
  select x.ids, x.versions, x.tickets, (
    select coalesce(json_agg(s), '[]')
    from (
      select e.*,
             case when e.available_tickets = 0 then
               (select min(b.expires_at) from bookings b
                where b.event_id = e.id and b.status = 'held' and b.expires_at > e.updated_at)
             end as next_hold_expires_at
      from (select * from changed union all select * from untouched) e
    ) s)
  into v_events, v_versions, v_tickets, v_snapshots
  from (
    select array_agg(c.id) as ids, array_agg(c.version) as versions, array_agg(c.available_tickets) as tickets from changed c
  ) x;

  if v_events is not null then
    v_logged := log_change(
      v_now, v_events, v_versions, v_tickets, null, v_held, nullif(v_confirmed, '{}'), nullif(v_cancelled, '{}'), v_expired);
  elsif 'replayed' = any (v_outcomes) or cardinality(p_settle_bookings) > 0 then
    v_logged := newest_position();
  end if;

  return json_build_object(
    'now', v_now,
    'lockWaitSeconds', v_lock_wait,
    'locked', (select json_agg(x.id) from unnest(v_event_ids, v_locked_out) as x(id, locked_out) where x.locked_out),
    'outcomes', case when v_any_judged then to_json(v_outcomes) end,
    'numbers', case when v_any_judged then to_json(v_numbers) end,
    'maxPerUser', case when v_any_judged then to_json(v_max) end,
    'replays', case when v_any_judged then (
      select json_object_agg(c.position, b)
      from unnest(p_events, p_users, p_keys, v_outcomes) with ordinality as c(event, user_id, key, outcome, position)
      join bookings b
        on b.event_id = p_event_ids[c.event] and b.user_id = c.user_id and b.idempotency_key = c.key
      where c.outcome = 'replayed') end,
    'settled', to_json(v_settled),
    'snapshots', v_snapshots,
    'position', v_logged);
end
$function$;
CREATE OR REPLACE FUNCTION public.decide_requests(p_event_ids uuid[], p_event_slots smallint[], p_events integer[], p_users text[], p_quantities integer[], p_hold_seconds integer[], p_keys text[], p_bookings uuid[], p_settle_kinds text[], p_settle_bookings uuid[], p_settle_slots smallint[], p_settle_users text[], p_now timestamp with time zone, p_tell_locked boolean, p_lock_wait_ms integer, p_doubted uuid[], p_waits boolean, p_requests boolean[], p_max_age_seconds integer)
 RETURNS json
 LANGUAGE plpgsql
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
  v_now    timestamptz := coalesce(p_now, now_ms());
  v_done   json;
  v_result json;
  v_judged jsonb;
begin
  insert into request_outcomes (booking_id, outcome)
  select r.id, 'lapsed'
  from unnest(p_bookings, p_requests) as r(id, is_request)
  where r.is_request and time_of(r.id) < v_now - make_interval(secs => p_max_age_seconds)
    and not exists (select from bookings b where b.id = r.id)
  order by r.id
  on conflict (booking_id) do nothing;

  v_done := outcomes_of(p_bookings, p_requests);
  if v_done is not null then
    return json_build_object('now', v_now, 'done', v_done);
  end if;

  v_result := decide_batch(p_event_ids, p_event_slots, p_events, p_users, p_quantities, p_hold_seconds, p_keys, p_bookings,
    p_settle_kinds, p_settle_bookings, p_settle_slots, p_settle_users, p_now, p_tell_locked, p_lock_wait_ms, p_doubted,
    p_waits);

  if json_typeof(v_result -> 'outcomes') = 'array' then
    v_judged := v_result::jsonb - 'snapshots';
    insert into request_outcomes (booking_id, outcome, number, max_per_user, granted_id)
    select x.id, x.outcome,
           case when x.outcome in ('insufficient_tickets', 'user_limit_exceeded') then x.number end,
           case when x.outcome = 'user_limit_exceeded' then (v_judged -> 'maxPerUser' ->> x.event - 1)::integer end,
           case when x.outcome in ('booked', 'held') then x.id
                when x.outcome = 'replayed' then (v_judged -> 'replays' -> x.position::text ->> 'id')::uuid end
    from (
      select r.id, r.event, r.position, o.number::integer as number,
             coalesce(o.outcome, case when r.hold_seconds > 0 then 'held' else 'booked' end) as outcome
      from rows from (
        unnest(p_bookings), unnest(p_events), unnest(p_hold_seconds), unnest(p_requests),
        jsonb_array_elements_text(v_judged -> 'outcomes'), jsonb_array_elements_text(v_judged -> 'numbers')
      ) with ordinality as r(id, event, hold_seconds, is_request, outcome, number, position)
      cross join lateral (select r.outcome, r.number) as o
      where r.is_request
    ) x
    -- Those are not decided: another shard, or a later batch, will.
    where x.outcome not in ('wrong_shard', 'event_locked')
    order by x.id;
  else
    insert into request_outcomes (booking_id, outcome, granted_id)
    select r.id, case when r.hold_seconds > 0 then 'held' else 'booked' end, r.id
    from unnest(p_bookings, p_hold_seconds, p_requests) as r(id, hold_seconds, is_request)
    where r.is_request
    order by r.id;
  end if;
  return v_result;
end
$function$;
CREATE OR REPLACE FUNCTION public.delete_webhook(p_event uuid, p_slot smallint, p_caller text, p_id uuid)
 RETURNS json
 LANGUAGE plpgsql
AS $function$
declare
  v_refusal json := webhooks_refusal(p_event, p_slot, p_caller);
begin
  if v_refusal is null then
    -- Who works on its deliveries locks them before it.
    perform from webhooks_place for update;
    delete from webhooks w where w.id = p_id and w.event_id = p_event;
  end if;
  return coalesce(v_refusal, json_build_object('outcome', 'deleted'));
end
$function$;
CREATE OR REPLACE FUNCTION public.drop_changes(p_keep interval)
 RETURNS double precision
 LANGUAGE plpgsql
AS $function$
declare
  v_until   bigint;
  v_last    bigint := pg_sequence_last_value('changes_position');
  v_written integer := v_last % 8;
  v_next    integer := (v_written + 1) % 8;
  v_part    integer;
  v_newest  record;
  v_oldest  timestamptz;
begin
  select d.until into v_until from changes_dropped d for update skip locked;
  if not found then
    return null;
  end if;
  for v_back in 1 .. 7 loop
    v_part := (v_written + v_back) % 8;
    select c.at, c.position into v_newest from changes c where c.position % 8 = v_part order by c.position desc limit 1;
    if v_newest.at < now() - p_keep then
      execute format('truncate changes_%s', v_part);
      update changes_dropped set until = greatest(until, v_newest.position), truncated = v_newest.position;
    end if;
  end loop;
  select c.at into v_oldest from changes c where c.position % 8 = v_written order by c.position limit 1;
  if v_oldest < now() - p_keep / 6 and not exists (select from changes c where c.position % 8 = v_next) then
    -- Far enough to be ahead of those who take positions right now.
    perform setval('changes_position', (v_last / 8 + 1000000) * 8 + v_next);
  end if;
  select min(c.at) into v_oldest
  from generate_series(0, 7) as p(part)
  cross join lateral (select c.at from changes c where c.position % 8 = p.part order by c.position limit 1) c;
  return coalesce(extract(epoch from now() - v_oldest), 0);
end
$function$;
CREATE OR REPLACE FUNCTION public.gather_deliveries(p_max integer)
 RETURNS json
 LANGUAGE plpgsql
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_place     bigint;
  v_first     bigint;
  v_truncated bigint;
  v_settled   bigint;
  v_until     bigint;
  v_gathered  integer := 0;
  v_dropped   json;
begin
  select p.position into v_place from webhooks_place p;
  select greatest(v_place, min(w.after)) into v_first from webhooks w;
  if exists (select from changes_dropped d where d.timeline <> current_timeline()) then
    perform restart_changes();
  end if;
  v_settled := changes_settled();
  select max(n.position) into v_until
  from (
    select m.position, m.told, sum(m.told) over (order by m.position) - m.told as before
    from (
      select c.position,
             hooks.count * (
               coalesce(cardinality(c.expired), 0) + coalesce(cardinality(c.cancelled), 0)
               + coalesce(cardinality(c.confirmed), 0) + coalesce(cardinality(c.held), 0) + 1) as told
      from changes c
      cross join lateral (
        select count(*) from unnest(c.events) as e(id) join webhooks w on w.event_id = e.id
      ) hooks
      where c.position > v_first and c.position <= v_settled
      order by c.position
      limit 1000
    ) m
  ) n
  where n.before = 0 or n.before + n.told <= p_max;

  with told as (
    select w.id as webhook_id, c.position, x.subject, c.at, x.status, x.event
    from changes c
    cross join lateral (
      select (c.event ->> 'id')::uuid as event_id, (c.event ->> 'id')::uuid as subject, null as status, c.event,
             'onsale.event.' || case when (c.event ->> 'version')::bigint = 1 then 'created' else 'changed' end || '.v1' as type
      where c.event is not null
      union all
      select b.event_id, b.id, s.status, null, 'onsale.booking.' || s.status || '.v1'
      from (
        select unnest(c.expired) as id, 'expired' as status
        union all select unnest(c.cancelled), 'cancelled'
        union all select unnest(c.confirmed), 'confirmed'
        union all select unnest(c.held), 'held'
      ) s
      join bookings b on b.id = s.id
    ) x
    join webhooks w on w.event_id = x.event_id and w.after < c.position and x.type = any (w.types)
    where c.position > v_first and c.position <= v_until
      and exists (select from unnest(c.events) as e(id) join webhooks h on h.event_id = e.id)
  ), added as (
    insert into webhook_deliveries (webhook_id, position, subject, at, status, event, due_at)
    select t.webhook_id, t.position, t.subject, t.at, t.status, t.event, t.at from told t
    returning webhook_id
  ), counted as (
    select a.webhook_id as id, count(*)::integer as added from added a group by a.webhook_id
  ), full_ones as (
    select w.id, w.event_id, w.waiting + c.added - 100000 as excess
    from counted c join webhooks w on w.id = c.id
    where w.waiting + c.added > 100000
  ), gone as (
    delete from webhook_deliveries d
    using (
      select o.webhook_id, o.position, o.subject
      from full_ones f
      cross join lateral (
        select old.* from webhook_deliveries old where old.webhook_id = f.id order by old.position limit f.excess
      ) o
    ) o
    where (d.webhook_id, d.position, d.subject) = (o.webhook_id, o.position, o.subject)
  ), kept as (
    update webhooks w set waiting = least(w.waiting + c.added, 100000)
    from counted c where w.id = c.id
  )
  select coalesce((select sum(c.added) from counted c), 0),
         coalesce((select json_agg(json_build_object('id', f.id, 'eventId', f.event_id, 'count', f.excess)) from full_ones f), '[]')
  into v_gathered, v_dropped;

  -- After the changes were read: whatever was dropped meanwhile is missing in them.
  select d.truncated into v_truncated from changes_dropped d;
  update webhooks_place p set position = greatest(v_first, v_truncated, v_until)
  where p.position < greatest(v_first, v_truncated, v_until);
  return json_build_object('count', v_gathered, 'skipped', v_first < v_truncated, 'dropped', v_dropped);
end
$function$;
CREATE OR REPLACE FUNCTION public.give_event(p_id uuid, p_owner text)
 RETURNS boolean
 LANGUAGE plpgsql
AS $function$
begin
  perform pg_advisory_xact_lock_shared(slots_lock_key());
  update events set owner_id = p_owner, version = version + 1, updated_at = now_ms() where id = p_id;
  if not found then
    return false;
  end if;
  perform log_event(p_id);
  return true;
end
$function$;
CREATE OR REPLACE FUNCTION public.hold_place(p_follower text, p_holder uuid, p_seconds double precision, p_position bigint DEFAULT NULL::bigint)
 RETURNS json
 LANGUAGE plpgsql
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_now   timestamptz := clock_timestamp();
  v_time  integer := current_timeline();
  v_first bigint;
  v_last  bigint := pg_sequence_last_value('changes_position');
  v_place log_places;
  v_held  boolean := false;
  v_skips boolean := false;
begin
  -- The same work again is all that a lost position leads to, so nobody waits for a disk or a replica.
  perform set_config('synchronous_commit', 'off', true);
  if exists (select from changes_dropped d where d.timeline <> v_time) then
    perform restart_changes();
  end if;
  select d.truncated into v_first from changes_dropped d;
  select * into v_place from log_places p where p.follower = p_follower for update;
  if not found then
    insert into log_places (follower, position, holder, held_until, timeline)
    values (p_follower, v_first, p_holder, '-infinity', v_time)
    on conflict (follower) do update set follower = excluded.follower
    returning * into v_place;
  end if;
  if v_place.timeline <> v_time then
    -- What the holder has done was done on another history. It reads its place anew.
    update log_places p set timeline = v_time, held_until = '-infinity' where p.follower = p_follower;
  elsif v_place.holder = p_holder and v_place.held_until > '-infinity' or v_place.held_until < v_now and p_seconds > 0 then
    v_place.position := greatest(v_place.position, p_position);
    v_skips := v_place.position not between v_first and v_last;
    if v_skips then
      v_place.position := v_first;
    end if;
    v_held := p_seconds > 0;
    update log_places p
    set position = v_place.position,
        holder = p_holder,
        held_until = case when v_held then v_now + make_interval(secs => p_seconds) else '-infinity' end
    where p.follower = p_follower;
  end if;
  return json_build_object(
    'held', v_held,
    'position', v_place.position,
    'skipped', v_skips,
    'lagSeconds', (
      select extract(epoch from clock_timestamp() - c.at) from changes c
      where c.position > v_place.position order by c.position limit 1));
end
$function$;
CREATE OR REPLACE FUNCTION public.keep_confirmed_at()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
begin
  new.confirmed_at := new.updated_at;
  return new;
end
$function$;
CREATE OR REPLACE FUNCTION public.list_webhooks(p_event uuid, p_slot smallint, p_caller text)
 RETURNS json
 LANGUAGE plpgsql
AS $function$
begin
  return coalesce(webhooks_refusal(p_event, p_slot, p_caller), json_build_object('outcome', 'listed', 'webhooks', (
    select coalesce(json_agg(json_build_object('id', w.id, 'url', w.url, 'types', w.types) order by w.id), '[]')
    from webhooks w where w.event_id = p_event)));
end
$function$;
CREATE OR REPLACE FUNCTION public.log_change(p_at timestamp with time zone, p_events uuid[], p_versions bigint[], p_available integer[], p_event json, p_held uuid[], p_confirmed uuid[], p_cancelled uuid[], p_expired uuid[])
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
declare
  v_position bigint;
begin
  if not pg_try_advisory_xact_lock_shared(changes_mark() + pg_sequence_last_value('changes_position')) then
    raise exception 'somebody keeps others from writing the log of changes';
  end if;
  v_position := nextval('changes_position');
  insert into changes (position, at, events, versions, available, event, held, confirmed, cancelled, expired)
  values (v_position, p_at, p_events, p_versions, p_available, p_event, p_held, p_confirmed, p_cancelled, p_expired);
  return v_position;
end
$function$;
CREATE OR REPLACE FUNCTION public.log_event(p_id uuid, p_expired uuid[] DEFAULT NULL::uuid[], p_is_new boolean DEFAULT true)
 RETURNS void
 LANGUAGE sql
AS $function$
  select log_change(
    e.updated_at, array[e.id], array[e.version], array[e.available_tickets], case when p_is_new then to_json(e) end,
    null, null, null, p_expired)
  from events e where e.id = p_id
$function$;
CREATE OR REPLACE FUNCTION public.newest_position()
 RETURNS bigint
 LANGUAGE sql
 STABLE
AS $function$
  select greatest((select max(position) from changes), (select until from changes_dropped))
$function$;
CREATE OR REPLACE FUNCTION public.now_ms()
 RETURNS timestamp with time zone
 LANGUAGE sql
AS $function$
  select date_trunc('milliseconds', clock_timestamp())
$function$;
CREATE OR REPLACE FUNCTION public.outcomes_of(p_ids uuid[], p_asked boolean[])
 RETURNS json
 LANGUAGE sql
 STABLE
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
  select json_object_agg(r.position, json_build_object(
           'outcome', o.outcome, 'number', o.number, 'maxPerUser', o.max_per_user, 'booking', to_json(b)))
  from unnest(p_ids, p_asked) with ordinality as r(id, asked, position)
  join request_outcomes o on o.booking_id = r.id
  left join bookings b on b.id = o.granted_id
  where r.asked
$function$;
CREATE OR REPLACE FUNCTION public.prune_requests(p_kept_seconds integer, p_limit integer)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
declare
  v_until uuid := (lpad(to_hex(floor(extract(epoch from now_ms()) * 1000)::bigint - p_kept_seconds * 1000::bigint), 12, '0')
                   || repeat('0', 20))::uuid;
  v_count integer;
begin
  delete from request_outcomes o
  where o.booking_id in (
    select d.booking_id from request_outcomes d where d.booking_id < v_until order by d.booking_id limit p_limit);
  get diagnostics v_count = row_count;
  return v_count;
end
$function$;
CREATE OR REPLACE FUNCTION public.raise_slots_token(p_token bigint)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
begin
  update slots_token t set token = p_token where t.token <= p_token;
  if not found then
    raise exception 'another change of slot owners has begun since; run this one again'
      using errcode = 'object_not_in_prerequisite_state';
  end if;
end
$function$;
CREATE OR REPLACE FUNCTION public.read_requests(p_ids uuid[], p_slots smallint[], p_max_age_seconds integer, p_kept_seconds integer, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS json
 LANGUAGE plpgsql
AS $function$
declare
  v_now   timestamptz := coalesce(p_now, now_ms());
  v_due   boolean[];
  v_known json;
begin
  v_known := outcomes_of(p_ids, array_fill(true, array[cardinality(p_ids)]));
  select array_agg(v_known -> r.position::text is null
                   and time_of(r.id) between v_now - make_interval(secs => p_kept_seconds)
                                         and v_now - make_interval(secs => p_max_age_seconds)
                   order by r.position)
  into v_due
  from unnest(p_ids) with ordinality as r(id, position);

  if true = any (v_due) then
    -- The slot must not be given away meanwhile: its new owner could decide the request.
    perform pg_advisory_xact_lock_shared(slots_lock_key());
    insert into request_outcomes (booking_id, outcome)
    select r.id, 'lapsed'
    from (select unnest(p_ids) as id, unnest(p_slots) as slot, unnest(v_due) as is_due) r
    join owned_slots o on o.slot = r.slot
    where r.is_due and not exists (select from bookings b where b.id = r.id)
    order by r.id
    on conflict (booking_id) do nothing;
    v_known := outcomes_of(p_ids, array_fill(true, array[cardinality(p_ids)]));
  end if;

  return json_build_object('now', v_now, 'requests', (
    select json_agg(case
             when o.slot is null then json_build_object('outcome', 'wrong_shard')
             when v_known -> r.position::text is not null then v_known -> r.position::text
             -- Its outcome is forgotten; its booking is not.
             when b.id is not null then json_build_object(
               'outcome', case when b.expires_at is null then 'booked' else 'held' end, 'booking', to_json(b))
             when time_of(r.id) < v_now - make_interval(secs => p_kept_seconds) then json_build_object('outcome', 'absent')
             else json_build_object('outcome', 'queued')
           end order by r.position)
    from unnest(p_ids, p_slots) with ordinality as r(id, slot, position)
    left join owned_slots o on o.slot = r.slot
    left join bookings b on b.id = r.id));
end
$function$;
CREATE OR REPLACE FUNCTION public.release_slots(p_slots smallint[], p_token bigint)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
declare
  v_owned   smallint[];
  v_holding smallint;
begin
  perform raise_slots_token(p_token);
  select array_agg(o.slot) into v_owned from owned_slots o where o.slot = any (p_slots);
  if v_owned is null then
    return;
  end if;
  perform pg_advisory_xact_lock(slots_lock_key());
  select min(e.slot) into v_holding from events e where e.slot = any (v_owned);
  if v_holding is not null then
    raise exception 'slot % holds events', v_holding using errcode = 'object_in_use';
  end if;
  delete from owned_slots o where o.slot = any (v_owned);
end
$function$;
CREATE OR REPLACE FUNCTION public.restart_changes()
 RETURNS void
 LANGUAGE plpgsql
AS $function$
declare
  v_last     bigint := pg_sequence_last_value('changes_position');
  v_position bigint := greatest(v_last / 8 + 1, (extract(epoch from clock_timestamp()) * 125000)::bigint) * 8 + v_last % 8;
begin
  perform setval('changes_position', v_position);
  update changes_dropped set until = v_position, timeline = current_timeline();
end
$function$;
CREATE OR REPLACE FUNCTION public.settle_deliveries(p_webhooks uuid[], p_positions bigint[], p_subjects uuid[], p_next double precision[])
 RETURNS void
 LANGUAGE plpgsql
AS $function$
begin
  perform set_config('synchronous_commit', 'off', true);
  perform from webhooks_place for update;
  with settled as (
    select * from unnest(p_webhooks, p_positions, p_subjects, p_next) as s(webhook_id, position, subject, next)
  ), done as (
    delete from webhook_deliveries d
    using settled s
    where (d.webhook_id, d.position, d.subject) = (s.webhook_id, s.position, s.subject) and coalesce(s.next, 0) = 0
    returning d.webhook_id
  ), later as (
    update webhook_deliveries d
    set due_at = clock_timestamp() + make_interval(secs => s.next)
    from settled s
    where (d.webhook_id, d.position, d.subject) = (s.webhook_id, s.position, s.subject) and s.next > 0
  )
  update webhooks w
  set waiting = w.waiting - (select count(*) from done d where d.webhook_id = w.id),
      failing = s.failing
  from (select s.webhook_id, not bool_or(coalesce(s.next, -1) = 0) as failing from settled s group by s.webhook_id) s
  where w.id = s.webhook_id;
end
$function$;
CREATE OR REPLACE FUNCTION public.slots_lock_key()
 RETURNS bigint
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$ select 727001 $function$;
CREATE OR REPLACE FUNCTION public.snapshots_of(p_event_ids uuid[])
 RETURNS json
 LANGUAGE sql
 STABLE
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
  select coalesce(json_agg(s), '[]')
  from (
    select e.*,
           case when e.available_tickets = 0 then
             (select min(b.expires_at) from bookings b
              where b.event_id = e.id and b.status = 'held' and b.expires_at > e.updated_at)
           end as next_hold_expires_at
    from unnest(p_event_ids) as x(id)
    cross join lateral (
      select * from events e where e.id between x.id and x.id order by e.id desc limit 1
    ) e
  ) s
$function$;
CREATE OR REPLACE FUNCTION public.take_deliveries(p_gather_max integer, p_max integer, p_failing_max integer, p_host_max integer, p_hosts text[], p_under_way integer[], p_seconds double precision)
 RETURNS json
 LANGUAGE plpgsql
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
AS $function$
declare
  v_now      timestamptz := clock_timestamp();
  v_waiting  bigint;
  v_gathered json;
  v_taken    json;
begin
  if not exists (select from webhooks) then
    return json_build_object('waiting', 0, 'gathered', null, 'deliveries', json_build_array());
  end if;
  -- What is lost with the last moments before a crash is done again.
  perform set_config('synchronous_commit', 'off', true);
  perform from webhooks_place for update skip locked;
  if not found then
    return json_build_object(
      'waiting', (select sum(w.waiting) from webhooks w), 'gathered', null, 'deliveries', json_build_array());
  end if;
  if p_gather_max > 0 then
    v_gathered := gather_deliveries(p_gather_max);
  end if;
  with due as (
    select d.webhook_id, d.position, d.subject, w.failing, w.tried_at,
           row_number() over (partition by w.host order by w.tried_at, d.due_at, d.position)
             + coalesce((select u.count from unnest(p_hosts, p_under_way) as u(host, count) where u.host = w.host), 0) as nth
    from webhooks w
    cross join lateral (
      select * from webhook_deliveries d
      where d.webhook_id = w.id and d.due_at <= v_now
      order by d.due_at, d.position
      limit case when w.failing then 1 else p_host_max end
    ) d
    where w.waiting > 0
  ), chosen as (
    select d.*, row_number() over (partition by d.failing order by d.tried_at, d.nth) as turn
    from due d
    where d.nth <= case when d.failing then 1 else p_host_max end
  ), taken as (
    update webhook_deliveries d
    set tries = d.tries + 1, due_at = v_now + make_interval(secs => p_seconds)
    from chosen c
    where c.turn <= case when c.failing then p_failing_max else p_max end
      and (d.webhook_id, d.position, d.subject) = (c.webhook_id, c.position, c.subject)
    returning d.*
  ), marked as (
    update webhooks w set tried_at = v_now
    from (select distinct t.webhook_id from taken t) t where w.id = t.webhook_id
  )
  select coalesce(json_agg(json_build_object(
    'webhook', json_build_object(
      'id', w.id, 'eventId', w.event_id, 'url', w.url, 'host', w.host, 'secret', w.secret, 'failing', w.failing),
    'tries', t.tries,
    'change', json_build_object(
      'position', t.position,
      'at', t.at,
      'events', json_build_array(),
      'event', t.event,
      'bookings', case when t.status is null then '[]' else (
        select json_agg(json_build_object(
          'id', b.id, 'event_id', b.event_id, 'user_id', b.user_id, 'quantity', b.quantity, 'status', t.status,
          'expires_at', b.expires_at, 'created_at', b.created_at, 'updated_at', t.at))
        from bookings b where b.id = t.subject) end)) order by t.position), '[]')
  into v_taken
  from taken t join webhooks w on w.id = t.webhook_id;
  select sum(w.waiting) into v_waiting from webhooks w;
  return json_build_object(
    'waiting', v_waiting,
    'gathered', v_gathered,
    'deliveries', v_taken);
end
$function$;
CREATE OR REPLACE FUNCTION public.time_of(p_id uuid)
 RETURNS timestamp with time zone
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
  select to_timestamp(('x' || left(translate(p_id::text, '-', ''), 12))::bit(48)::bigint / 1000.0)
$function$;
CREATE OR REPLACE FUNCTION public.webhooks_refusal(p_event uuid, p_slot smallint, p_caller text)
 RETURNS json
 LANGUAGE plpgsql
AS $function$
declare
  v_owner text;
begin
  perform pg_advisory_xact_lock_shared(slots_lock_key());
  if not exists (select from owned_slots o where o.slot = p_slot) then
    return json_build_object('outcome', 'wrong_shard');
  end if;
  select e.owner_id into v_owner from events e where e.id = p_event;
  if not found then
    return json_build_object('outcome', 'event_not_found');
  end if;
  if p_caller is not null and v_owner is distinct from p_caller then
    return json_build_object('outcome', 'forbidden');
  end if;
  return null;
end
$function$;

create view hottest_events as
 WITH newest AS MATERIALIZED (
         SELECT bookings.event_id,
            bookings.quantity
           FROM bookings
          WHERE (bookings.id >= ((lpad(to_hex(((EXTRACT(epoch FROM (now() - '00:01:00'::interval)) * (1000)::numeric))::bigint), 12, '0'::text) || '00000000000000000000'::text))::uuid)
          ORDER BY bookings.id DESC
         LIMIT 20000
        ), hottest AS (
         SELECT newest.event_id,
            (count(*))::integer AS bookings,
            (sum(newest.quantity))::integer AS tickets
           FROM newest
          GROUP BY newest.event_id
          ORDER BY ((count(*))::integer) DESC, newest.event_id
         LIMIT 10
        )
 SELECT events.id,
    events.name,
    events.status,
    events.available_tickets AS tickets_left,
    events.total_tickets AS tickets_total,
    hottest.bookings AS bookings_of_last_minute,
    hottest.tickets AS tickets_of_last_minute
   FROM (hottest
     JOIN events ON ((events.id = hottest.event_id)))
  ORDER BY hottest.bookings DESC, events.id;

CREATE TRIGGER keep_confirmed_at BEFORE UPDATE ON public.bookings FOR EACH ROW WHEN (((old.status <> 'confirmed'::text) AND (new.status = 'confirmed'::text))) EXECUTE FUNCTION keep_confirmed_at();

grant select on hottest_events to public;
