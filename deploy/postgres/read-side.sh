#!/bin/bash
# Run once by the image, when its data directory is empty: the read side's database and its owner, who makes the tables.
set -eu
psql --set=ON_ERROR_STOP=1 --username=postgres --dbname=postgres <<'SQL'
\getenv read_side_password READ_SIDE_PASSWORD
\getenv monitor_password MONITOR_PASSWORD
create role read_side login password :'read_side_password';
create database read_side owner read_side;
create role monitor login password :'monitor_password';
grant pg_monitor to monitor;
SQL
