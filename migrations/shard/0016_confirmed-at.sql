-- why: a read side counts sales by minute, and begins with a copy of what is here. So it must know when a booking was confirmed, also
--      when it was cancelled since (docs/decisions/0024-read-side.md).

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
