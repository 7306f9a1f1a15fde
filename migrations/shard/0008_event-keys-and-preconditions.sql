-- why: an organizer whose answer was lost sends the request again, and must not put a second event on sale. So the shard
--      remembers under which key it created which event (B12). And two organizers must not overwrite each other unseen: a
--      change may name the versions that it was made for, which is decided under the row's lock (A8).
--      Nodes of the version before call both functions as ever; the new parameters have defaults.

-- The event that each key of an organizer created. Key and event are of one slot, so they are on one shard, and a slot that
-- has a key has its event too: neither is given away (R3).
create table event_keys (
  organizer       text not null,
  idempotency_key text not null,
  -- Deferred, because the key is claimed before its event exists.
  event_id        uuid not null references event_ids deferrable initially deferred,
  -- A digest of what was asked for; the event itself changes.
  content         text not null,
  constraint b12_one_event_per_key primary key (organizer, idempotency_key)
);

drop function create_event(uuid, smallint, text, text, timestamptz, timestamptz, timestamptz, integer, integer, timestamptz);

-- Creates an event. The id decides about a retry of the router: an id that exists answers what it created. The key, if there
-- is one, decides about a retry of the organizer, who gets the event that the key created, as it is now.
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
  if p_sales_start_at >= p_sales_end_at then
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
    (id, slot, name, venue, starts_at, sales_start_at, sales_end_at, total_tickets, available_tickets, max_per_user,
     highest_max_per_user, created_at, updated_at)
  values
    (p_id, p_slot, p_name, p_venue, p_starts_at, p_sales_start_at, p_sales_end_at, p_total_tickets, p_total_tickets,
     p_max_per_user, p_max_per_user, p_created_at, p_created_at)
  on conflict (id) do nothing;
  return json_build_object('outcome', 'saved', 'snapshots', snapshots_of(array[p_id]));
end
$$;

drop function change_event(uuid, smallint, jsonb, timestamptz);

-- Changes an event under the same lock as bookings. `p_changes` holds the columns to set, by name; a column that is
-- absent stays as it is, and a JSON null sets null. With `p_versions` the event must have one of these versions.
create function change_event(
  p_id       uuid,
  p_slot     smallint,
  p_changes  jsonb,
  p_now      timestamptz default null,
  p_versions bigint[] default null
) returns json language plpgsql as $$
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
  if v_before.version <> all (p_versions) then
    return json_build_object('outcome', 'version_mismatch', 'snapshots', snapshots_of(array[p_id]));
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
