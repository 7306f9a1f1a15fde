#!/usr/bin/env bash
# Copies one PostgreSQL server, while it runs, into BACKUP_DIR/base/TIME, and verifies the copy. TIME, in UTC, is when it
# ended (needs GNU date): restore.sh can go back to any later moment that archive-wal.sh has seen. So start that one first.
set -euo pipefail
: "${DATABASE_URL:?is required: the server, as a user with REPLICATION}"
: "${BACKUP_DIR:?is required: where the backups of this server are kept}"
. "$(dirname "$0")/same-history.sh"

mkdir -p "$BACKUP_DIR/base"
draft="$BACKUP_DIR/draft.$$"
trap 'rm -rf "$draft"' EXIT
pg_basebackup --dbname="$DATABASE_URL" --pgdata="$draft" --checkpoint=fast --wal-method=stream
pg_verifybackup --quiet "$draft"
name=$(date -u +%Y%m%dT%H%M%S.%6NZ)
mv "$draft" "$BACKUP_DIR/base/$name"
metric onsale_backup_base_timestamp_seconds "$(date +%s)" "When did the newest base backup end?"
echo "base backup $name"
