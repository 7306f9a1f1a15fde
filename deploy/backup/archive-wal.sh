#!/usr/bin/env bash
# Archives the write-ahead log of one PostgreSQL server into BACKUP_DIR/wal as it is written, until it is stopped or loses
# the server. Run it under a supervisor that starts it again. Its replication slot makes the server keep what was not
# archived yet; bound that with max_slot_wal_keep_size. A directory holds one timeline: after a failover or a restore it
# refuses, until it is given a new one.
set -euo pipefail
: "${DATABASE_URL:?is required: the server, as a user with REPLICATION}"
: "${BACKUP_DIR:?is required: where the backups of this server are kept}"
. "$(dirname "$0")/same-history.sh"

mkdir -p "$BACKUP_DIR/wal"
archive=(pg_receivewal --dbname="$DATABASE_URL" --directory="$BACKUP_DIR/wal" --slot=onsale_backup)
"${archive[@]}" --create-slot --if-not-exists
# Synchronous: what was received is on the disk at once, not when its segment is full.
exec "${archive[@]}" --synchronous --no-loop
