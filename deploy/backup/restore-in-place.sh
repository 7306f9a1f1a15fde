#!/usr/bin/env bash
# restore-in-place.sh [TIME]: restores the server whose data directory is PGDATA (restore.sh), and replays the log until
# the end. Its old data stays beside it, under a name with today's time. The server must be stopped.
set -euo pipefail
: "${DATABASE_URL:?is required: the server}"
: "${PGDATA:?is required: its data directory}"
refuse() { echo "restore-in-place: $*" >&2; exit 1; }
# Past this PostgreSQL is stopped, and the next attempt begins anew.
REPLAY_MAX_SECONDS=${REPLAY_MAX_SECONDS:-86400}

# 2: the server does not answer.
answer=0 && pg_isready --quiet --dbname="$DATABASE_URL" || answer=$?
[ "$answer" = 2 ] || refuse "the server runs: stop it"

new=$PGDATA.new
rm -rf "$new"
"$(dirname "$0")/restore.sh" "$new" "$@"
stop() { pg_ctl --pgdata="$new" --mode=fast --silent stop || true; }
trap stop EXIT
# It admits nobody before recovery has ended, and nobody from outside at all.
pg_ctl --pgdata="$new" --silent --log="$new.log" --wait \
  --options="-c hot_standby=off -c listen_addresses='' -c unix_socket_directories=/tmp" start || refuse "$(tail -3 "$new.log")"
until pg_isready --quiet --host=/tmp; do
  pg_ctl --pgdata="$new" status >/dev/null || refuse "$(grep -e FATAL "$new.log" || tail -3 "$new.log")"
  [ "$SECONDS" -lt "$REPLAY_MAX_SECONDS" ] || refuse "the log was not replayed within $REPLAY_MAX_SECONDS s"
  sleep 1
done
trap - EXIT
stop

if [ -e "$PGDATA" ]; then mv "$PGDATA" "$PGDATA.until-$(date -u +%Y%m%dT%H%M%SZ)"; fi
mv "$new" "$PGDATA"
echo "restored; the data of before stays beside $PGDATA"
