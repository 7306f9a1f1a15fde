#!/bin/bash
# The entrypoint of a primary. A database keeps the passwords that it was made with, so they are checked before.
set -eu
names=(POSTGRES_PASSWORD ONSALE_PASSWORD REPLICATION_PASSWORD MONITOR_PASSWORD)
for name in "${names[@]}"; do export "$name=$(cat "/run/secrets/$name")"; done
exec /check-passwords.sh "${names[@]}" -- docker-entrypoint.sh "$@"
