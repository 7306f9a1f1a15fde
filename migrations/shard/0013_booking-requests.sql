-- why: a booking request that waits in a queue has been promised one decision, and its receipt says which (Q1). The message
--      may come twice, and a request may grow too old while its shard is away. So the outcome of each request is kept, in the
--      transaction that decides it, under a primary key: a second decision, or a lapse beside a decision, cannot be stored.
--      And an event says whether all its bookings wait in the queue.
--      Nodes of the version before decide no requests; they call decide_batch() as ever.

alter table events add column intake text not null default 'direct'
  constraint events_intake_check check (intake in ('direct', 'queue'));

-- One row per decided or lapsed request, kept for a day (prune_requests). A request's id is that of the booking that it may
-- become, so it carries the moment of its acceptance, and the key is in the order of time.
create table request_outcomes (
  booking_id   uuid not null,
  outcome      text not null,
  -- tickets left for insufficient_tickets, tickets that the user has for user_limit_exceeded
  number       integer,
  max_per_user integer,
  -- the booking: its own, or the one that another request with the key got before
  granted_id   uuid,
  constraint q1_decided_once primary key (booking_id),
  constraint q1_granted_with_booking check ((outcome in ('booked', 'held', 'replayed')) = (granted_id is not null)),
  constraint q1_own_booking check (outcome not in ('booked', 'held') or granted_id = booking_id)
);

-- When an id was made (UUIDv7, RFC 9562 §5.7).
create function time_of(p_id uuid) returns timestamptz immutable parallel safe language sql as $$
  select to_timestamp(('x' || left(translate(p_id::text, '-', ''), 12))::bit(48)::bigint / 1000.0)
$$;

-- What is known of requests, by position: {outcome, number, maxPerUser, booking}; null when nothing is.
create function outcomes_of(p_ids uuid[], p_asked boolean[]) returns json stable language sql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
  select json_object_agg(r.position, json_build_object(
           'outcome', o.outcome, 'number', o.number, 'maxPerUser', o.max_per_user, 'booking', to_json(b)))
  from unnest(p_ids, p_asked) with ordinality as r(id, asked, position)
  join request_outcomes o on o.booking_id = r.id
  left join bookings b on b.id = o.granted_id
  where r.asked
$$;

-- Decides a batch that has requests in it. Its parameters are those of decide_batch(), and
--
--   p_requests         whether the booking command is a request
--   p_max_age_seconds  a request that is older lapses (Q3)
--
-- When requests of the batch have an outcome already, or are too old, nothing else is decided: `done` has their outcomes by
-- position, and the caller asks again without them. Else the answer is that of decide_batch(), and each request has its
-- outcome in the same transaction. A lapse that a reader writes meanwhile breaks the primary key, and nothing is decided.
create function decide_requests(
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
  p_now             timestamptz,
  p_tell_locked     boolean,
  p_lock_wait_ms    integer,
  p_doubted         uuid[],
  p_waits           boolean,
  p_requests        boolean[],
  p_max_age_seconds integer
) returns json language plpgsql
set plan_cache_mode = force_generic_plan
as $$
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
$$;

-- What became of requests: one {outcome, …} for each id, as outcomes_of() has it, or {outcome} alone:
--   queued       nobody has decided it, and somebody still may
--   absent       it is too old for its outcome to be kept
--   wrong_shard  this shard does not own its slot
-- A request that nobody has decided in time lapses here and now. The primary key of request_outcomes says whether a batch was
-- faster, so what is told here never changes, whatever clocks do (Q3).
create function read_requests(
  p_ids              uuid[],
  p_slots            smallint[],
  p_max_age_seconds  integer,
  p_kept_seconds     integer,
  p_now              timestamptz default null
) returns json language plpgsql as $$
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
$$;

-- Forgets outcomes of requests that were accepted longer ago than this, at most `p_limit` of them. Answers how many.
create function prune_requests(p_kept_seconds integer, p_limit integer) returns integer language plpgsql as $$
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
$$;
