-- why: some follow the log of changes inside the nodes: what publishes it to the broker, for example. How far such a follower has
--      got must survive every node, so it stands here. And of the nodes of a shard one does that work at a time
--      (docs/decisions/0025-events-and-webhooks.md).

-- One row per follower. Its place is held for a while, and whoever holds it renews that; an advisory lock would need a session, and
-- behind a pooler nobody has one. Two that do the work at once, because one was paused, only do it twice: a place never goes back.
create table log_places (
  follower   text primary key,
  -- Everything up to here is done.
  position   bigint not null,
  holder     uuid not null,
  held_until timestamptz not null
);

-- Holds a follower's place for p_seconds, if nobody else does, and moves it to p_position, if it is held and that is further on; with 0 seconds
-- whoever holds it gives it back. A place that was never held is at the first change that is kept. Answers one JSON object:
--   held        whether p_holder holds it now
--   position    where it is
--   skipped     true when changes after the place are not kept any more, or the log has begun anew: it has moved on to the first
--               that is kept
--   lagSeconds  age of the first change after it; null without one
create function hold_place(p_follower text, p_holder uuid, p_seconds double precision, p_position bigint default null)
returns json language plpgsql
set enable_seqscan = off
as $$
declare
  v_now   timestamptz := clock_timestamp();
  v_first bigint;
  v_last  bigint := pg_sequence_last_value('changes_position');
  v_place log_places;
  v_held  boolean := false;
  v_skips boolean := false;
begin
  -- The same work again is all that a lost position leads to, so nobody waits for a disk or a replica.
  perform set_config('synchronous_commit', 'off', true);
  select d.until into v_first from changes_dropped d;
  select * into v_place from log_places p where p.follower = p_follower for update;
  if not found then
    insert into log_places (follower, position, holder, held_until) values (p_follower, v_first, p_holder, '-infinity')
    on conflict (follower) do update set follower = excluded.follower
    returning * into v_place;
  end if;
  if v_place.holder = p_holder and v_place.held_until > '-infinity' or v_place.held_until < v_now and p_seconds > 0 then
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
