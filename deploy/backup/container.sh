#!/usr/bin/env bash
# The entrypoint of the services backup-…: a new volume belongs to root, and PostgreSQL's tools want to be its user.
set -euo pipefail
mkdir -p "$BACKUP_DIR" "$BACKUP_METRICS"
chown postgres: "$(dirname "$BACKUP_DIR")" "$BACKUP_DIR" "$BACKUP_METRICS"
cd /
PATH="$(dirname "$0"):$PATH"
exec gosu postgres "$@"
