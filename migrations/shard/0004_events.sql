-- why: an event is read, created and changed by one function each, so that every answer shows the row as that statement or
--      that transaction left it.

-- Events as nodes read them: the row, and when a sold-out event gets tickets back on its own. The newest version is looked
-- for first, as decide_batch does it.
create function snapshots_of(p_event_ids uuid[]) returns json stable language sql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
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
  insert into event_ids (id) values (p_id) on conflict (id) do nothing;
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
