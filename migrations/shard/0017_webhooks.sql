-- why: organizers want their own servers told of what happens to an event, and no node may forget that when it dies. So what is to
--      be delivered is a row, written from the log of changes in one transaction with how far the log has been read, and it goes
--      when it was delivered or given up (docs/decisions/0025-events-and-webhooks.md).

-- Whom to tell of an event. Not events, but event_ids is referenced: nobody here waits for the lock of an event.
create table webhooks (
  id         uuid primary key,
  event_id   uuid not null references event_ids,
  -- Which of the event's webhooks it is.
  place      smallint not null,
  url        text not null constraint webhooks_url_check check (char_length(url) between 1 and 2048),
  -- Deliveries under way to one host are bounded.
  host       text not null,
  types      text[] not null constraint webhooks_types_check check (cardinality(types) > 0),
  -- The key that signs. It must be had in plain, as every sender of webhooks has it.
  secret     text not null,
  -- What changed up to here was before it.
  after      bigint not null,
  -- Its deliveries, counted: to count the rows would take longer than to write them.
  waiting    integer not null default 0,
  -- Whether its last try failed.
  failing    boolean not null default false,
  tried_at   timestamptz not null default '-infinity',
  constraint j9_few_webhooks_of_an_event unique (event_id, place),
  constraint j9_few_webhooks check (place between 1 and 5),
  constraint j13_bounded_backlog check (waiting between 0 and 100000)
);

-- What one webhook is to be told of one change, until that is done. What it says of a booking never changes but for the status.
create table webhook_deliveries (
  webhook_id uuid not null references webhooks on delete cascade,
  position   bigint not null,
  -- The booking or the event.
  subject    uuid not null,
  at         timestamptz not null,
  -- What the booking became; null for an event, which is then kept as it was.
  status     text,
  event      json,
  tries      smallint not null default 0,
  -- When the next try may be made. While one is under way, when it is taken for lost.
  due_at     timestamptz not null,
  primary key (webhook_id, position, subject)
);
create index webhook_deliveries_due on webhook_deliveries (webhook_id, due_at, position);

-- How far the log has been read for webhooks. Who works on deliveries locks this row, so nodes take turns.
create table webhooks_place (
  singleton boolean primary key default true check (singleton),
  position  bigint not null
);
insert into webhooks_place (position) values (0);

-- Whether p_caller may see to an event's webhooks; null is an operator. What they tell is more than everybody may know, so an event
-- without an owner has none but those of operators.
create function webhooks_refusal(p_event uuid, p_slot smallint, p_caller text) returns json language plpgsql as $$
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
$$;

-- Adds a webhook. A second request with the same id gets what the first one made.
create function create_webhook(
  p_event  uuid,
  p_slot   smallint,
  p_caller text,
  p_id     uuid,
  p_url    text,
  p_host   text,
  p_types  text[],
  p_secret text
) returns json language plpgsql as $$
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
$$;

-- The webhooks of an event, the oldest first, without their secrets.
create function list_webhooks(p_event uuid, p_slot smallint, p_caller text) returns json language plpgsql as $$
begin
  return coalesce(webhooks_refusal(p_event, p_slot, p_caller), json_build_object('outcome', 'listed', 'webhooks', (
    select coalesce(json_agg(json_build_object('id', w.id, 'url', w.url, 'types', w.types) order by w.id), '[]')
    from webhooks w where w.event_id = p_event)));
end
$$;

-- Removes a webhook, and what it was still to be told. Afterwards it is not there, whether it was or not.
create function delete_webhook(p_event uuid, p_slot smallint, p_caller text, p_id uuid) returns json language plpgsql as $$
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
$$;

-- Writes what webhooks are to be told of the next changes: of as many as lead to not more than p_max deliveries, but of one at
-- least. The caller holds the lock of webhooks_place. Answers one JSON object:
--   count     how many deliveries are new
--   skipped   true when changes were dropped before they were read here
--   dropped   per webhook whose backlog was full, how many of its oldest deliveries were given up: [{id, eventId, count}]
create function gather_deliveries(p_max integer) returns json language plpgsql
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
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
$$;

-- Gathers, then takes deliveries to be tried now: at most p_max to webhooks that work and p_failing_max to those that failed
-- lately; of one host p_host_max together with those under way (p_hosts, p_under_way), or one while it fails. Whose last try
-- was longest ago comes first. A delivery that nobody settles within p_seconds is taken again. Answers one JSON object:
--   waiting     deliveries of all webhooks
--   gathered    what gather_deliveries() answers; null when p_gather_max is 0, or another node is at work
--   deliveries  [{webhook: {id, eventId, url, host, secret, failing}, tries, change: as of changes_after()}]
create function take_deliveries(
  p_gather_max  integer,
  p_max         integer,
  p_failing_max integer,
  p_host_max    integer,
  p_hosts       text[],
  p_under_way   integer[],
  p_seconds     double precision
) returns json language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
as $$
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
$$;

-- Keeps what became of tries: p_next is after how many seconds there is another, 0 when it was delivered, null when it is given up.
create function settle_deliveries(
  p_webhooks  uuid[],
  p_positions bigint[],
  p_subjects  uuid[],
  p_next      double precision[]
) returns void language plpgsql as $$
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
$$;
