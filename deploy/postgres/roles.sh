#!/bin/bash
# Run once by the image, when its data directory is empty: the database of a shard or of the catalog, its owner, and what
# a replica needs.
set -eu
psql --set=ON_ERROR_STOP=1 --username=postgres --dbname=postgres <<'SQL'
\getenv database DATABASE
\getenv onsale_password ONSALE_PASSWORD
\getenv monitor_password MONITOR_PASSWORD
\getenv replication_password REPLICATION_PASSWORD
create role onsale login password :'onsale_password';
-- A node shows who waits for locks and how far replicas are behind; without it, it would see its own sessions only.
grant pg_monitor to onsale;
-- The same role under another name: while a password is exchanged, both names are good (deploy/passwords.sh).
create role onsale_2 login password :'onsale_password' in role onsale;
alter role onsale_2 set role = 'onsale';
create database :"database" owner onsale;
create role monitor login password :'monitor_password';
grant pg_monitor to monitor;
create role replicator login replication password :'replication_password';
-- Keeps the WAL that a replica which is away still needs, up to max_slot_wal_keep_size.
select pg_create_physical_replication_slot('replica', true);
SQL
# "all" in the image's own line means all databases, and replication is none.
echo 'host replication replicator all scram-sha-256' >>"$PGDATA/pg_hba.conf"
