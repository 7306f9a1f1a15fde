-- why: a shard writes only events of slots that it owns, and what says so must be read in the same transaction (R3). A map
--      in somebody's memory may be stale; this table is not.

-- The slots that this shard may write. Read under a shared advisory lock by every batch, changed under the exclusive one,
-- so that a change waits out running batches.
create table owned_slots (
  slot        smallint primary key check (slot between 0 and 4095),
  map_version bigint not null
);

-- Whoever changes owners of slots works from what the catalog said when it began. If it is held up and another change
-- overtakes it, it must not go on: two shards would own a slot. So each change takes a number from the catalog, its token,
-- and a shard obeys none that began before the newest one it has seen (docs/decisions/0012-slot-fencing.md).
create table slots_token (
  singleton boolean primary key default true check (singleton),
  token     bigint not null
);
insert into slots_token (token) values (0);

-- The lock that every writer takes shared and a change of owned slots takes exclusively.
create function slots_lock_key() returns bigint immutable parallel safe language sql as $$ select 727001 $$;

-- Lets a change of owners go on, or refuses it. The row's lock is held until the end of the transaction, so one change at a
-- time is at work here, and the next one is judged by what it has left.
create function raise_slots_token(p_token bigint) returns void language plpgsql as $$
begin
  update slots_token t set token = p_token where t.token <= p_token;
  if not found then
    raise exception 'another change of slot owners has begun since; run this one again'
      using errcode = 'object_not_in_prerequisite_state';
  end if;
end
$$;

-- Gives up those of the slots that the shard owns, all or none: a slot that holds an event stays. The exclusive lock waits
-- out running batches, and later ones see the slots gone. Where nothing is owned, no batch is held up.
create function release_slots(p_slots smallint[], p_token bigint) returns void language plpgsql as $$
declare
  v_owned   smallint[];
  v_holding smallint;
begin
  perform raise_slots_token(p_token);
  select array_agg(o.slot) into v_owned from owned_slots o where o.slot = any (p_slots);
  if v_owned is null then
    return;
  end if;
  perform pg_advisory_xact_lock(slots_lock_key());
  select min(e.slot) into v_holding from events e where e.slot = any (v_owned);
  if v_holding is not null then
    raise exception 'slot % holds events', v_holding using errcode = 'object_in_use';
  end if;
  delete from owned_slots o where o.slot = any (v_owned);
end
$$;

-- Takes slots over. No batch needs to be waited for: one that began before refuses them, and that is right as well.
create function acquire_slots(p_slots smallint[], p_token bigint) returns void language plpgsql as $$
begin
  perform raise_slots_token(p_token);
  insert into owned_slots (slot, map_version) select slot, p_token from unnest(p_slots) as slot
  on conflict do nothing;
end
$$;
