-- why: a failover begins a new timeline, and a primary that was replaced still takes itself for one when it comes back. A node
--      that starts while only that one can be reached must know that there is a newer one. Who promoted a server tells
--      nobody; so nodes write down the newest timeline that they have found, and refuse servers of older ones.

-- 0: none was found yet. It only rises, but for a shard that was restored on purpose (after-restore).
alter table shards add timeline integer not null default 0 check (timeline >= 0);
