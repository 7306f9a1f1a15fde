-- why: a read side must be able to begin with nothing: it copies what is here, then follows the log from where it ended before. For
--      its sales by minute it must know when a booking was confirmed, also when it was cancelled since. And whoever follows the
--      log must know up to which moment it knows everything (docs/decisions/0024-read-side.md).

-- When a hold was confirmed. Null for what was booked at once, which was confirmed when it was created, and for what was
-- confirmed before this was kept. The trigger never runs for an insert: a booking in the rush pays nothing for it.
alter table bookings add column confirmed_at timestamptz;

create function keep_confirmed_at() returns trigger language plpgsql as $$
begin
  new.confirmed_at := new.updated_at;
  return new;
end
$$;

create trigger keep_confirmed_at before update on bookings
for each row when (old.status <> 'confirmed' and new.status = 'confirmed')
execute function keep_confirmed_at();

-- The changes after a position, in order: as many as have not more than p_bookings_max bookings, but one at least. Without a
-- position, none; the answer says which is the newest. Answers one JSON object:
--   dropped     true when changes after the position are not kept any more, or the log has begun anew since
--   position    the last one of the answer, to ask for those after it
--   asOf        everything that was committed until then has this position or one before
--   lagSeconds  age of the first change, also of one that must wait for an earlier one to be committed; null without one
--   changes     {position, at, events: [{id, version, availableTickets}], event?, bookings: [rows of `bookings`]}
create or replace function changes_after(p_after bigint, p_bookings_max integer) returns json language plpgsql
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
    where p_after < d.until or p_after > pg_sequence_last_value('changes_position')
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
