#!/bin/bash
# The entrypoint of a replica: copies its primary at the first start, then streams from it. A copy that was interrupted is
# thrown away, because it gets its final name only when it is whole.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  copy="$(dirname "$PGDATA")/copy"
  rm -rf "$copy"
  PGPASSWORD=$(cat /run/secrets/REPLICATION_PASSWORD) pg_basebackup --pgdata="$copy" --slot=replica --wal-method=stream --checkpoint=fast \
    --write-recovery-conf --dbname="host=$PRIMARY_HOST user=replicator application_name=replica"
  # A server that is being restored, or was restored without deploy/backup/restore.sh, has these: a replica would stop there too.
  sed -i -E '/^(restore_command|recovery_(target|end))/d' "$copy/postgresql.auto.conf"
  mv "$copy" "$PGDATA"
fi
exec docker-entrypoint.sh "$@"
