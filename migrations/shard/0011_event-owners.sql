-- why: whoever may create events could change those of everybody else (S9). An event belongs to the organizer who created it,
--      and what changes events decides under the event's lock whose it is, so there is no way around it.
--      Sales that have no end of their own end when the event starts, so they must begin before that.
--      Nodes of the version before name no organizer: they create events without an owner, and change only such.

-- Null for events of before: nobody knows whose they are, and they must not be out of their organizers' reach. Every organizer
-- may change them, as before, until an operator has said whose they are (docs/operations.md). Changing one does not claim
-- it: a stranger could come first.
alter table events add column owner_id text
  constraint events_owner_id_check check (char_length(owner_id) between 1 and 255);

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
  return json_build_object('outcome', 'saved', 'snapshots', snapshots_of(array[p_id]));
end
$$;

drop function change_event(uuid, smallint, jsonb, timestamptz, bigint[]);

-- Changes an event under the same lock as bookings. `p_changes` holds the columns to set, by name; a column that is
-- absent stays as it is, and a JSON null sets null. Only its owner may change an event that has one. With `p_versions` the event must have one of these versions.
create function change_event(
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
    returning b.quantity
  )
  select coalesce(sum(quantity), 0) into v_freed from due;
  v_sold := v_before.total_tickets - v_before.available_tickets - v_freed;

  v_row := jsonb_populate_record(v_before, p_changes);
  v_row.available_tickets := v_row.total_tickets - v_sold;
  if v_row.available_tickets < 0 or v_row.sales_start_at >= coalesce(v_row.sales_end_at, v_row.starts_at) then
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
