#!/bin/bash
# Run once by the image, when its data directory is empty: the database of a shard or of the catalog, its owner, and what
# a replica needs.
set -eu
psql --set=ON_ERROR_STOP=1 --username=postgres --dbname=postgres \
  --set=database="$DATABASE" --set=onsale_password="$ONSALE_PASSWORD" --set=replication_password="$REPLICATION_PASSWORD" \
  --set=monitor_password="$MONITOR_PASSWORD" <<'SQL'
create role onsale login password :'onsale_password';
-- A node shows who waits for locks and how far replicas are behind; without it, it would see its own sessions only.
grant pg_monitor to onsale;
create database :"database" owner onsale;
create role monitor login password :'monitor_password';
grant pg_monitor to monitor;
create role replicator login replication password :'replication_password';
-- Keeps the WAL that a replica which is away still needs, up to max_slot_wal_keep_size.
select pg_create_physical_replication_slot('replica', true);
SQL
# "all" in the image's own line means all databases, and replication is none.
echo 'host replication replicator all scram-sha-256' >>"$PGDATA/pg_hba.conf"
