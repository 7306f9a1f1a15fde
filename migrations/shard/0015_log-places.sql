-- why: some follow the log of changes inside the nodes: what publishes it to the broker, for example. How far such a follower has
--      got must survive every node, so it stands here. And of the nodes of a shard one does that work at a time
--      (docs/decisions/0025-events-and-webhooks.md). After a failover the log begins anew for those outside, who cannot know what
--      they have seen; a place is kept in this database, and what stands behind it is still to be done.
--      And whoever follows the log must know up to which moment it knows everything (docs/decisions/0024-read-side.md).

-- One row per follower. Its place is held for a while, and whoever holds it renews that; an advisory lock would need a session, and
-- behind a pooler nobody has one. Two that do the work at once, because one was paused, only do it twice: a place never goes back.
create table log_places (
  follower   text primary key,
  -- Everything up to here is done.
  position   bigint not null,
  holder     uuid not null,
  held_until timestamptz not null,
  -- The timeline on which it was held: a place that was moved on another was moved by what happened there.
  timeline   integer not null
);

-- Begun anew, the log has another beginning for those outside than for places: `until` is the one, and this the other, the last
-- position that was dropped.
alter table changes_dropped add column truncated bigint;
update changes_dropped set truncated = until;
alter table changes_dropped alter column truncated set not null;

drop function changes_after(bigint, integer);

-- The changes after a position, in order: as many as have not more than p_bookings_max bookings, but one at least. Without a
-- position, none; the answer says which is the newest. Answers one JSON object:
--   dropped     true when changes after the position are not kept any more, or the log has begun anew since; for a place only the first
--   position    the last one of the answer, to ask for those after it
--   asOf        everything that was committed until then has this position or one before
--   lagSeconds  age of the first change, also of one that must wait for an earlier one to be committed; null without one
--   changes     {position, at, events: [{id, version, availableTickets}], event?, bookings: [rows of `bookings`]}
create function changes_after(p_after bigint, p_bookings_max integer, p_is_place boolean default false) returns json language plpgsql
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
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
$$;

-- Drops what is older than p_keep, and returns the age of the oldest change that is left, in seconds. When the part that is
-- written into has become old enough, the next one has its turn, so about a sixth more is kept than asked for. If somebody else
-- is at work here, does nothing and returns null. The caller bounds how long to wait for the lock of a part, which only its
-- readers have.
create or replace function drop_changes(p_keep interval) returns double precision language plpgsql as $$
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
$$;

-- Holds a follower's place for p_seconds, if nobody else does, and moves it to p_position, if it is held and that is further on; with 0 seconds
-- whoever holds it gives it back. A place that was never held is at the first change that is kept. Answers one JSON object:
--   held        whether p_holder holds it now
--   position    where it is
--   skipped     true when changes after the place are not kept any more: it has moved on to the first that is kept
--   lagSeconds  age of the first change after it; null without one
create function hold_place(p_follower text, p_holder uuid, p_seconds double precision, p_position bigint default null)
returns json language plpgsql
set enable_seqscan = off
as $$
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
$$;
