-- why: one user, or one locked row, must not hold up everybody else. Several commands of one user for one event are decided in
--      one batch, so a user's queue does not drain one command a transaction. An event whose lock somebody else holds leaves
--      the batch, and only its own commands are told so (docs/decisions/0017-fair-lanes.md).
--      And three rules were not kept. A hold could be confirmed after its event was closed, but a ticket is sold when it is
--      confirmed (B10). An event that is over still sold: without an end of their own, sales end when the event starts (B10).
--      Who confirms or cancels somebody else's booking was refused only after waiting for the lock of its event (S3).

drop function decide_batch(uuid[], smallint[], integer[], text[], integer[], integer[], text[], uuid[], text[], uuid[],
  smallint[], text[], timestamptz, boolean);

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
    returning b.event_id, b.quantity
  ), freed as (
    select event_id, sum(quantity) as tickets from due group by event_id
  )
  select array_agg((x.event).available_tickets + coalesce(f.tickets, 0) order by x.position),
         array_agg((x.event).max_per_user order by x.position),
         array_agg((x.event).status = 'on_sale'
                   and ((x.event).sales_start_at is null or (x.event).sales_start_at <= v_now)
                   and coalesce((x.event).sales_end_at, (x.event).starts_at) > v_now order by x.position),
         array_agg(f.tickets is not null order by x.position)
  into v_available, v_max, v_sales_open, v_changed
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
      update bookings b set status = 'confirmed', updated_at = v_now where b.id = v_booking.id
      returning * into v_booking;
    else
      v_outcome := 'hold_expired';
    end if;
    v_settled := v_settled || json_build_object(
      'outcome', v_outcome,
      'booking', case when v_outcome in ('confirmed', 'cancelled') then to_json(v_booking) end);
  end loop;

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
  select coalesce(json_agg(s), '[]')
  into v_snapshots
  from (
    select e.*,
           case when e.available_tickets = 0 then
             (select min(b.expires_at) from bookings b
              where b.event_id = e.id and b.status = 'held' and b.expires_at > e.updated_at)
           end as next_hold_expires_at
    from (select * from changed union all select * from untouched) e
  ) s;

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
    'snapshots', v_snapshots);
end
$$;
