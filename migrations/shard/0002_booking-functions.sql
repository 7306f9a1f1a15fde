-- why: a batch of commands is one call of one function: one round trip, one lock per event, one commit, and the lock is
--      never held across the network. PL/pgSQL under READ COMMITTED gives each statement a fresh snapshot, so the checks
--      after the lock see what the previous holder committed; a CTE in the locking statement would not
--      (PostgreSQL manual §13.2.1).

-- The lock that every writer takes shared and a change of owned slots takes exclusively (R3).
create function slots_lock_key() returns bigint immutable parallel safe language sql as $$ select 727001 $$;

-- Milliseconds are what clients see; storing no more keeps a stored time and its printed form equal.
create function now_ms() returns timestamptz volatile language sql as $$
  select date_trunc('milliseconds', clock_timestamp())
$$;

-- Events as nodes read them: the row, and when a sold-out event gets tickets back on its own.
create function snapshots_of(p_event_ids uuid[]) returns json stable language sql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
  select coalesce(json_agg(s), '[]')
  from (
    select e.*,
           case when e.available_tickets = 0 then
             (select min(b.expires_at) from bookings b where b.event_id = e.id and b.status = 'held')
           end as next_hold_expires_at
    from events e
    where e.id = any (p_event_ids)
  ) s
$$;

-- Decides one batch (rules B1 to B9 in SPEC.md). First the settling commands (confirm, cancel), then the booking ones
-- (book, hold), each group in arrival order. With no commands at all it only expires the due holds of the given events.
--
--   p_event_ids, p_event_slots   the distinct events of the booking commands; commands name them by position, from 1
--   p_users … p_bookings         one element per booking command; p_hold_seconds is 0 for book; p_bookings are fresh ids
--   p_settle_kinds …             one element per settling command; a null user is an operator
--   p_now                        only tests give it
--
-- Answers one JSON object:
--   now             when the batch was decided
--   lockWaitSeconds how long the locking select waited
--   outcomes        one word per booking command
--   numbers         with it: `held` for user_limit_exceeded, tickets left for insufficient_tickets
--   replays         position of a replayed command -> its booking
--   settled         one {outcome, booking?} per settling command
--   snapshots       every event of the batch as it is after it
create function decide_batch(
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
  p_now             timestamptz default null
) returns json language plpgsql
-- The plans must stay index scans, also on a table that is empty when they are made and has a million rows later.
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_event_ids   uuid[] := p_event_ids;
  v_now         timestamptz;
  v_before      timestamptz;
  v_lock_wait   double precision;
  -- per event, by position
  v_available   integer[];
  v_max         integer[];
  v_sales_open  boolean[];
  v_owned       boolean[];
  v_changed     boolean[];
  -- per booking command
  v_outcomes    text[] := array_fill(null::text, array[cardinality(p_events)]);
  v_numbers     integer[] := array_fill(null::integer, array[cardinality(p_events)]);
  v_settled     json[] := '{}';
  v_outcome     text;
  v_number      integer;
  v_command     record;
  v_booking     bookings;
  v_position    integer;
  v_any_booked  boolean := false;
begin
  -- Two commands of one user for one event in one batch would not see each other's tickets.
  if exists (
    select from unnest(p_events, p_users) as c(event, user_id) group by event, user_id having count(*) > 1
  ) then
    raise exception 'a batch holds at most one booking command per user and event';
  end if;

  perform pg_advisory_xact_lock_shared(slots_lock_key());

  if cardinality(p_settle_bookings) > 0 then
    -- Which event a booking belongs to never changes, so it can be read before the lock.
    select p_event_ids || coalesce(array_agg(distinct b.event_id), '{}')
    into v_event_ids
    from bookings b
    where b.id = any (p_settle_bookings) and b.event_id <> all (p_event_ids);
  end if;

  -- In the order of ids, so that two batches that share events cannot wait for each other in a circle (B1).
  v_before := clock_timestamp();
  perform from events e where e.id = any (v_event_ids) order by e.id for update;
  v_lock_wait := extract(epoch from clock_timestamp() - v_before);
  v_now := coalesce(p_now, now_ms());

  -- Tickets of a due hold are free at this very moment (B6).
  with due as (
    update bookings b
    set status = 'expired', updated_at = v_now
    where b.event_id = any (v_event_ids) and b.status = 'held' and b.expires_at <= v_now
    returning b.event_id, b.quantity
  ), freed as (
    select event_id, sum(quantity) as tickets from due group by event_id
  )
  select array_agg(e.available_tickets + coalesce(f.tickets, 0) order by x.position),
         array_agg(e.max_per_user order by x.position),
         array_agg(e.status = 'on_sale'
                   and (e.sales_start_at is null or e.sales_start_at <= v_now)
                   and (e.sales_end_at is null or e.sales_end_at > v_now) order by x.position),
         array_agg(f.tickets is not null order by x.position)
  into v_available, v_max, v_sales_open, v_changed
  from unnest(v_event_ids) with ordinality as x(id, position)
  left join events e on e.id = x.id
  left join freed f on f.event_id = x.id;

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
    elsif p_settle_kinds[i] = 'cancel' then
      v_outcome := 'cancelled';
      if v_booking.status <> 'cancelled' then
        if v_booking.status <> 'expired' then
          v_available[v_position] := v_available[v_position] + v_booking.quantity;
        end if;
        v_changed[v_position] := true;
        update bookings b set status = 'cancelled', updated_at = v_now where b.id = v_booking.id
        returning * into v_booking;
      end if;
    elsif v_booking.status = 'confirmed' then
      v_outcome := 'confirmed';
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
      update bookings b set status = 'confirmed', updated_at = v_now where b.id = v_booking.id
      returning * into v_booking;
    else
      v_outcome := 'hold_expired';
    end if;
    v_settled := v_settled || json_build_object(
      'outcome', v_outcome,
      'booking', case when v_outcome in ('confirmed', 'cancelled') then to_json(v_booking) end);
  end loop;

  for v_command in
    select c.position, c.event, c.quantity, mine.tickets, mine.same_key, mine.same_content
    from unnest(p_events, p_users, p_quantities, p_hold_seconds, p_keys)
         with ordinality as c(event, user_id, quantity, hold_seconds, key, position)
    cross join lateral (
      select coalesce(sum(b.quantity) filter (where b.status in ('held', 'confirmed')), 0)::integer as tickets,
             coalesce(bool_or(b.idempotency_key = c.key), false) as same_key,
             bool_and(b.quantity = c.quantity
                      and coalesce(extract(epoch from b.expires_at - b.created_at), 0) = c.hold_seconds)
               filter (where b.idempotency_key = c.key) as same_content
      from bookings b
      where b.event_id = p_event_ids[c.event] and b.user_id = c.user_id
    ) mine
    order by c.position
  loop
    v_position := v_command.event;
    v_number := null;
    if not v_owned[v_position] then
      v_outcome := 'wrong_shard';
    elsif v_command.same_key then
      v_outcome := case when v_command.same_content then 'replayed' else 'idempotency_key_reused' end;
    elsif v_max[v_position] is null then
      v_outcome := 'event_not_found';
    elsif not v_sales_open[v_position] then
      v_outcome := 'sales_not_open';
    elsif v_available[v_position] = 0 then
      v_outcome := 'sold_out';
    elsif v_command.tickets + v_command.quantity > v_max[v_position] then
      v_outcome := 'user_limit_exceeded';
      v_number := v_command.tickets;
    elsif v_command.quantity > v_available[v_position] then
      v_outcome := 'insufficient_tickets';
      v_number := v_available[v_position];
    else
      v_outcome := case when p_hold_seconds[v_command.position] = 0 then 'booked' else 'held' end;
      v_available[v_position] := v_available[v_position] - v_command.quantity;
      v_changed[v_position] := true;
      v_any_booked := true;
    end if;
    v_outcomes[v_command.position] := v_outcome;
    v_numbers[v_command.position] := v_number;
  end loop;

  if v_any_booked then
    insert into bookings
      (id, slot, event_id, user_id, quantity, status, expires_at, idempotency_key, created_at, updated_at)
    select c.id, p_event_slots[c.event], p_event_ids[c.event], c.user_id, c.quantity,
           case when c.hold_seconds = 0 then 'confirmed' else 'held' end,
           case when c.hold_seconds > 0 then v_now + make_interval(secs => c.hold_seconds) end,
           c.key, v_now, v_now
    from unnest(p_bookings, p_events, p_users, p_quantities, p_hold_seconds, p_keys, v_outcomes)
         as c(id, event, user_id, quantity, hold_seconds, key, outcome)
    where c.outcome in ('booked', 'held');
  end if;

  if true = any (v_changed) then
    update events e
    set available_tickets = x.available, version = e.version + 1, updated_at = v_now
    from unnest(v_event_ids, v_available, v_changed) as x(id, available, changed)
    where e.id = x.id and x.changed;
  end if;

  return json_build_object(
    'now', v_now,
    'lockWaitSeconds', v_lock_wait,
    'outcomes', to_json(v_outcomes),
    'numbers', to_json(v_numbers),
    'maxPerUser', to_json(v_max),
    'replays', (
      select json_object_agg(c.position, b)
      from unnest(p_events, p_users, p_keys, v_outcomes) with ordinality as c(event, user_id, key, outcome, position)
      join bookings b
        on b.event_id = p_event_ids[c.event] and b.user_id = c.user_id and b.idempotency_key = c.key
      where c.outcome = 'replayed'),
    'settled', to_json(v_settled),
    'snapshots', snapshots_of(v_event_ids));
end
$$;

-- Creates an event. The id decides everything about a retry: an id that exists answers what it created.
create function create_event(
  p_id             uuid,
  p_slot           smallint,
  p_name           text,
  p_venue          text,
  p_starts_at      timestamptz,
  p_sales_start_at timestamptz,
  p_sales_end_at   timestamptz,
  p_total_tickets  integer,
  p_max_per_user   integer,
  p_created_at     timestamptz
) returns json language plpgsql as $$
begin
  perform pg_advisory_xact_lock_shared(slots_lock_key());
  if not exists (select from owned_slots o where o.slot = p_slot) then
    return json_build_object('outcome', 'wrong_shard');
  end if;
  if p_sales_start_at >= p_sales_end_at then
    return json_build_object('outcome', 'invalid_sales_window');
  end if;
  insert into events
    (id, slot, name, venue, starts_at, sales_start_at, sales_end_at, total_tickets, available_tickets, max_per_user,
     highest_max_per_user, created_at, updated_at)
  values
    (p_id, p_slot, p_name, p_venue, p_starts_at, p_sales_start_at, p_sales_end_at, p_total_tickets, p_total_tickets,
     p_max_per_user, p_max_per_user, p_created_at, p_created_at)
  on conflict (id) do nothing;
  return json_build_object('outcome', 'saved', 'snapshots', snapshots_of(array[p_id]));
end
$$;

-- Changes an event under the same lock as bookings. `p_changes` holds the columns to set, by name; a column that is
-- absent stays as it is, and a JSON null sets null.
create function change_event(p_id uuid, p_slot smallint, p_changes jsonb, p_now timestamptz default null)
returns json language plpgsql as $$
declare
  v_now  timestamptz;
  v_before events;
  v_row  events;
  v_freed integer;
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
  v_now := coalesce(p_now, now_ms());
  -- A due hold is not sold (B6); without this it could refuse a smaller total.
  with due as (
    update bookings b
    set status = 'expired', updated_at = v_now
    where b.event_id = p_id and b.status = 'held' and b.expires_at <= v_now
    returning b.quantity
  )
  select coalesce(sum(quantity), 0) into v_freed from due;
  v_sold := v_before.total_tickets - v_before.available_tickets - v_freed;

  v_row := jsonb_populate_record(v_before, p_changes);
  v_row.available_tickets := v_row.total_tickets - v_sold;
  if v_row.available_tickets < 0 or v_row.sales_start_at >= v_row.sales_end_at then
    -- Holds that were due stay expired, so the event must show it.
    update events e
    set available_tickets = e.available_tickets + v_freed, version = e.version + 1, updated_at = v_now
    where e.id = p_id and v_freed > 0;
    return json_build_object(
      'outcome', case when v_row.available_tickets < 0 then 'below_sold' else 'invalid_sales_window' end,
      'snapshots', snapshots_of(array[p_id]));
  end if;
  if v_row is not distinct from v_before then
    return json_build_object('outcome', 'saved', 'snapshots', snapshots_of(array[p_id]));
  end if;
  update events e
  set name = v_row.name, venue = v_row.venue, starts_at = v_row.starts_at, sales_start_at = v_row.sales_start_at,
      sales_end_at = v_row.sales_end_at, total_tickets = v_row.total_tickets,
      available_tickets = v_row.available_tickets, max_per_user = v_row.max_per_user,
      highest_max_per_user = greatest(e.highest_max_per_user, v_row.max_per_user), status = v_row.status,
      version = e.version + 1, updated_at = v_now
  where e.id = p_id;
  return json_build_object('outcome', 'saved', 'snapshots', snapshots_of(array[p_id]));
end
$$;

-- Gives up a slot that holds no event. The exclusive lock waits out running batches; later ones see the slot gone (R3).
create function release_slot(p_slot smallint) returns void language plpgsql as $$
begin
  perform pg_advisory_xact_lock(slots_lock_key());
  if exists (select from events e where e.slot = p_slot) then
    raise exception 'slot % holds events', p_slot using errcode = 'object_in_use';
  end if;
  delete from owned_slots o where o.slot = p_slot;
end
$$;

-- Takes a slot over.
create function acquire_slot(p_slot smallint, p_map_version bigint) returns void language plpgsql as $$
begin
  perform pg_advisory_xact_lock(slots_lock_key());
  insert into owned_slots (slot, map_version) values (p_slot, p_map_version)
  on conflict (slot) do update set map_version = excluded.map_version;
end
$$;
