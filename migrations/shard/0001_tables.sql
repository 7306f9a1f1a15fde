-- why: the truth about events and bookings. What must hold even if all code above is wrong is a constraint here, named
--      after its rule in SPEC.md. Every index costs write throughput: add one only with a measurement.

-- What bookings point at: an event's id, in a row that nothing ever updates. Each booking's foreign key looks its event up,
-- and it would walk over every version of a row that batches update, as long as somebody's old snapshot keeps those alive
-- (docs/decisions/0015-identity-of-events.md).
create table event_ids (
  id uuid primary key
);

-- The row that batches lock and update.
create table events (
  -- Without posting lists, so that of an event's index entries the newest is the first one from behind (newest_event).
  id                uuid primary key with (deduplicate_items = off) references event_ids,
  slot              smallint not null check (slot between 0 and 4095),
  name              text not null check (char_length(name) between 1 and 200),
  venue             text check (char_length(venue) between 1 and 200),
  starts_at         timestamptz not null,
  sales_start_at    timestamptz,
  sales_end_at      timestamptz,
  total_tickets     integer not null check (total_tickets between 1 and 10000000),
  available_tickets integer not null,
  max_per_user      smallint not null check (max_per_user between 1 and 100),
  -- The limit may be lowered after tickets were sold under a higher one; the audit compares with the highest (B3).
  highest_max_per_user smallint not null,
  status            text not null default 'on_sale' check (status in ('on_sale', 'paused', 'closed')),
  version           bigint not null default 1,
  created_at        timestamptz not null,
  updated_at        timestamptz not null,
  constraint b1_never_oversold check (available_tickets between 0 and total_tickets),
  constraint b3_highest_limit check (highest_max_per_user >= max_per_user),
  constraint sales_window_is_ordered check (sales_start_at < sales_end_at)
)
-- Room on a row's page keeps its next versions there, without touching an index (HOT).
with (fillfactor = 50);

create table bookings (
  id              uuid primary key,
  slot            smallint not null,
  event_id        uuid not null references event_ids,
  user_id         text not null check (char_length(user_id) between 1 and 64),
  quantity        smallint not null check (quantity between 1 and 100),
  status          text not null check (status in ('held', 'confirmed', 'cancelled', 'expired')),
  -- When the hold ends or ended; null when the booking was never a hold.
  expires_at      timestamptz,
  idempotency_key text not null,
  created_at      timestamptz not null,
  updated_at      timestamptz not null,
  constraint holds_expire check (status not in ('held', 'expired') or expires_at is not null),
  -- A booking id carries the slot of its event in the 12 bits after the version digit, so that it finds its shard (R1).
  constraint r1_id_carries_slot check (get_byte(uuid_send(id), 6) % 16 * 256 + get_byte(uuid_send(id), 7) = slot)
);

-- B4: one booking per event, user and key. The same index finds a user's bookings and those of an event.
create unique index b4_one_booking_per_key on bookings (event_id, user_id, idempotency_key);
-- Due holds, per event.
create index bookings_held on bookings (event_id, expires_at) where status = 'held';
