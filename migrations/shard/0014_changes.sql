-- why: others must learn what changed here: a read side over all shards, whoever is to be told of a sale. They must miss nothing
--      and see nothing that was rolled back, so each transaction that changes an event or a booking also writes what it changed,
--      as one row (docs/decisions/0018-log-of-changes.md). Who follows the log asks for all after a position.

-- Changes are kept for a while, in a ring of eight parts that are written in turns. A part is emptied whole, which takes no time
-- and locks no other. A position's remainder by eight is its part: so who writes need not look up whose turn it is, which was a
-- third of what the log cost.
create table changes (
  position  bigint not null,
  -- The moment of the transaction, which is the updated_at of all that it changed.
  at        timestamptz not null,
  -- The events that changed, and what a batch changes of them.
  events    uuid[] not null,
  versions  bigint[] not null,
  available integer[] not null,
  -- The whole event, when itself is another: it was created, or changed by its organizer.
  event     json,
  -- The bookings that changed, by what they have become. What else there is to them never changes, and stands in `bookings`.
  held      uuid[],
  confirmed uuid[],
  cancelled uuid[],
  expired   uuid[]
) partition by list ((position % 8));

-- What cannot be compressed to speak of is not tried.
alter table changes
  alter column events set storage external,
  alter column versions set storage external,
  alter column available set storage external,
  alter column held set storage external,
  alter column confirmed set storage external,
  alter column cancelled set storage external,
  alter column expired set storage external;

-- Nothing in them is ever updated or deleted, so there is nothing to vacuum.
create table changes_0 partition of changes (primary key (position)) for values in (0) with (autovacuum_enabled = off);
create table changes_1 partition of changes (primary key (position)) for values in (1) with (autovacuum_enabled = off);
create table changes_2 partition of changes (primary key (position)) for values in (2) with (autovacuum_enabled = off);
create table changes_3 partition of changes (primary key (position)) for values in (3) with (autovacuum_enabled = off);
create table changes_4 partition of changes (primary key (position)) for values in (4) with (autovacuum_enabled = off);
create table changes_5 partition of changes (primary key (position)) for values in (5) with (autovacuum_enabled = off);
create table changes_6 partition of changes (primary key (position)) for values in (6) with (autovacuum_enabled = off);
create table changes_7 partition of changes (primary key (position)) for values in (7) with (autovacuum_enabled = off);

-- Positions are handed out under the locks of the events that changed, so the changes of an event have their order. What a
-- transaction that is rolled back took stays unused. 0 is before all. A step is a whole turn of the ring: the part stays the same
-- until drop_changes() leaps into the next one.
create sequence changes_position increment by 8 minvalue 0;
select setval('changes_position', 0);

-- The first eight digits of a WAL file's name are its server's timeline.
create function current_timeline() returns integer stable language sql as $$
  select ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer
$$;

-- The last position that was dropped: who has got no further has missed changes. And the timeline that the log was begun on.
create table changes_dropped (
  singleton boolean primary key default true check (singleton),
  until     bigint not null,
  timeline  integer not null
);
insert into changes_dropped (until, timeline) values (0, current_timeline());

-- Readers must not pass over a position whose transaction has still to commit. So each transaction, before it takes its position,
-- marks the last one that was taken by then, with a shared advisory lock that ends with it: its own is after that mark. Nobody
-- ever waits for a mark (changes_settled() only looks at them), so lanes commit together as before. The key is the position
-- beyond this number, where no other lock of this database is.
create function changes_mark() returns bigint immutable parallel safe language sql as $$ select 1::bigint << 62 $$;

-- Writes what a transaction changed, and returns the position. The locks of the events must be held by then. Plain expressions take a sixth of the
-- time of statements, so the lock is one that could be refused, and the sequence is not read as a table.
create function log_change(
  p_at        timestamptz,
  p_events    uuid[],
  p_versions  bigint[],
  p_available integer[],
  p_event     json,
  p_held      uuid[],
  p_confirmed uuid[],
  p_cancelled uuid[],
  p_expired   uuid[]
) returns bigint language plpgsql as $$
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
$$;

-- Writes that an event was created or changed otherwise than by a batch: which of its holds ended with that, and if the event
-- itself is another, the whole of it.
create function log_event(p_id uuid, p_expired uuid[] default null, p_is_new boolean default true) returns void language sql as $$
  select log_change(
    e.updated_at, array[e.id], array[e.version], array[e.available_tickets], case when p_is_new then to_json(e) end,
    null, null, null, p_expired)
  from events e where e.id = p_id
$$;

-- The newest change that is committed; of an empty log, the last that was dropped. Everything up to there was to be read.
create function newest_position() returns bigint stable language sql as $$
  select greatest((select max(position) from changes), (select until from changes_dropped))
$$;

-- The position up to which every change is committed or will never be. The last position is read before the marks: who took a
-- position by then had made a mark before.
create function changes_settled() returns bigint language plpgsql as $$
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
$$;

-- Begins the log anew: whoever followed it before is told so. After a restore, or when a replica has become the primary, what
-- was followed may not be what is here. Positions go on above all that were ever handed out: microseconds rise faster than
-- transactions commit.
create function restart_changes() returns void language plpgsql as $$
declare
  v_last     bigint := pg_sequence_last_value('changes_position');
  v_position bigint := greatest(v_last / 8 + 1, (extract(epoch from clock_timestamp()) * 125000)::bigint) * 8 + v_last % 8;
begin
  perform setval('changes_position', v_position);
  update changes_dropped set until = v_position, timeline = current_timeline();
end
$$;

-- The changes after a position, in order: as many as have not more than p_bookings_max bookings, but one at least. Without a
-- position, none; the answer says which is the newest. Answers one JSON object:
--   dropped     true when changes after the position are not kept any more, or the log has begun anew since
--   position    the last one of the answer, to ask for those after it
--   lagSeconds  age of the first change, also of one that must wait for an earlier one to be committed; null without one
--   changes     {position, at, events: [{id, version, availableTickets}], event?, bookings: [rows of `bookings`]}
create function changes_after(p_after bigint, p_bookings_max integer) returns json language plpgsql
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_settled bigint;
  v_changes json;
  v_last    bigint;
begin
  if exists (select from changes_dropped d where d.timeline <> current_timeline()) then
    perform restart_changes();
  end if;
  v_settled := changes_settled();
  if p_after is null then
    return json_build_object('dropped', false, 'changes', json_build_array(), 'position', least(newest_position(), v_settled));
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
    where p_after < d.until or p_after > pg_sequence_last_value('changes_position')
  ) then
    return json_build_object('dropped', true, 'changes', json_build_array());
  end if;
  return json_build_object(
    'dropped', false,
    'changes', coalesce(v_changes, '[]'),
    'position', coalesce(v_last, p_after),
    'lagSeconds', (
      select extract(epoch from clock_timestamp() - c.at) from changes c
      where c.position > p_after order by c.position limit 1));
end
$$;

-- Drops what is older than p_keep, and returns the age of the oldest change that is left, in seconds. When the part that is
-- written into has become old enough, the next one has its turn, so about a sixth more is kept than asked for. If somebody else
-- is at work here, does nothing and returns null. The caller bounds how long to wait for the lock of a part, which only its
-- readers have.
create function drop_changes(p_keep interval) returns double precision language plpgsql as $$
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
      update changes_dropped set until = greatest(until, v_newest.position);
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
$$;

-- Decides one batch (rules B1 to B9 in SPEC.md). First the settling commands (confirm, cancel), then the booking ones
-- (book, hold), each group in arrival order. With no commands at all it only expires the due holds of the given events.
--
-- In a rush nearly every command is by a user without bookings and for an event with tickets enough for all who ask at once,
-- so nothing needs to be judged: they are inserted as they are. The others are judged one by one (docs/performance.md).
--
-- Somebody's old snapshot keeps every version of an event alive, one more with each batch, and a look-up by id walks over
-- all of them. So an event is looked up once, from its newest version, and after that by its place (ctid)
-- (docs/decisions/0015-identity-of-events.md).
--
--   p_event_ids, p_event_slots   the distinct events of the booking commands; commands name them by position, from 1
--   p_users … p_bookings         one element per booking command; p_hold_seconds is 0 for book; p_bookings are fresh ids
--   p_settle_kinds …             one element per settling command; a null user is an operator
--   p_now                        only tests give it
--   p_lock_wait_ms               how long to wait for the lock of an event
--   p_doubted                    events whose lock somebody else held lately: their locks are not waited for
--   p_waits                      false: no event's lock is waited for
--   p_tell_locked                says `locked` (a notice, sent at once) when it holds the locks of its events: from then on
--                                whoever locks the same events comes after it, so the next batch may be sent
--
-- Answers one JSON object:
--   now             when the batch was decided
--   lockWaitSeconds how long the locking select waited
--   outcomes        one word per booking command, null for booked or held as asked; null when that goes for all
--   locked          the events whose lock somebody else holds; nothing was decided about them, and outcomes say event_locked
--   numbers         with it: tickets the user has for user_limit_exceeded, tickets left for insufficient_tickets
--   maxPerUser      with it: one per event
--   replays         position of a replayed command -> its booking
--   settled         one {outcome, booking?} per settling command
--   snapshots       every event of the batch as it is after it
--   position        of the log, when a booking is answered: whoever has followed it to here has that booking as answered
create or replace function decide_batch(
  p_event_ids       uuid[],
  p_event_slots     smallint[],
  p_events          integer[],
  p_users           text[],
  p_quantities      integer[],
  p_hold_seconds    integer[],
  p_keys            text[],
  p_bookings        uuid[],
  p_settle_kinds    text[],
  p_settle_bookings uuid[],
  p_settle_slots    smallint[],
  p_settle_users    text[],
  p_now             timestamptz default null,
  p_tell_locked     boolean default false,
  p_lock_wait_ms    integer default null,
  p_doubted         uuid[] default '{}',
  p_waits           boolean default true
) returns json language plpgsql
-- The plans must stay index scans, also on a table that is empty when they are made and has a million rows later, and are
-- made once per connection: planning anew was a large part of what a small batch took.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
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
$$;

-- Creates an event. The id decides about a retry of the router: an id that exists answers what it created. The key, if there
-- is one, decides about a retry of the organizer, who gets the event that the key created, as it is now. The organizer owns it.
create or replace function create_event(
  p_id             uuid,
  p_slot           smallint,
  p_name           text,
  p_venue          text,
  p_starts_at      timestamptz,
  p_sales_start_at timestamptz,
  p_sales_end_at   timestamptz,
  p_total_tickets  integer,
  p_max_per_user   integer,
  p_created_at     timestamptz,
  p_organizer      text default null,
  p_key            text default null,
  p_content        text default null
) returns json language plpgsql as $$
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
$$;

-- Changes an event under the same lock as bookings. `p_changes` holds the columns to set, by name; a column that is
-- absent stays as it is, and a JSON null sets null. Only its owner may change an event that has one. With `p_versions` the event must have one of these versions.
create or replace function change_event(
  p_id        uuid,
  p_slot      smallint,
  p_changes   jsonb,
  p_now       timestamptz default null,
  p_versions  bigint[] default null,
  p_organizer text default null
) returns json language plpgsql as $$
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
$$;

-- For operators: says whose an event is (docs/operations.md). Returns whether there is such an event.
create function give_event(p_id uuid, p_owner text) returns boolean language plpgsql as $$
begin
  perform pg_advisory_xact_lock_shared(slots_lock_key());
  update events set owner_id = p_owner, version = version + 1, updated_at = now_ms() where id = p_id;
  if not found then
    return false;
  end if;
  perform log_event(p_id);
  return true;
end
$$;
