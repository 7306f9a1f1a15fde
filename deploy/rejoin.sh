#!/bin/sh
# rejoin.sh FORMER SUCCESSOR [OPTION of docker compose …]: makes FORMER, the primary that was replaced, a replica of SUCCESSOR.
# It deletes the data of FORMER: rows that only FORMER has are lost.
set -eu
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { echo "use: rejoin.sh FORMER SUCCESSOR, such as shard-a shard-a-replica" >&2; exit 1; }
former=$1 successor=$2
shift 2

sql() { docker compose "$@" exec -T "$successor" psql -U postgres -At -c "$statement"; }
statement="select pg_is_in_recovery()"
state=$(sql "$@") || { echo "rejoin: $successor does not answer" >&2; exit 1; }
[ "$state" = f ] || { echo "rejoin: $successor is no primary; promote it first" >&2; exit 1; }

docker compose "$@" stop "$former"
statement="select pg_create_physical_replication_slot('replica', true)
  where not exists (select from pg_replication_slots where slot_name = 'replica')"
sql "$@" >/dev/null
docker compose "$@" run --rm --no-deps -T --entrypoint bash "$former" -c 'rm -rf "$PGDATA"'
docker compose "$@" run --rm --no-deps -T -e PRIMARY_HOST="$successor" --entrypoint /replica.sh "$former" true
docker compose "$@" start "$former"
statement="select count(*) from pg_stat_replication where application_name = 'replica' and state = 'streaming'"
seconds=60
until [ "$(sql "$@")" = 1 ]; do
  seconds=$((seconds - 1))
  [ "$seconds" -gt 0 ] || { echo "rejoin: $former does not stream; see docker compose logs $former" >&2; exit 1; }
  sleep 1
done
echo "$former follows $successor"
