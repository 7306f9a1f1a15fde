#!/bin/bash
# The entrypoint of a primary. A database keeps the passwords that it was made with, so they are checked before.
set -eu
cd /run/secrets
names=(*)
for name in "${names[@]}"; do export "$name=$(cat "$name")"; done
cd /
exec /check-passwords.sh "${names[@]}" -- docker-entrypoint.sh "$@"
