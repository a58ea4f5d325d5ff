#!/bin/sh
# Make what compose.yaml needs and is not in the repository: secrets/ and .env. What is there already stays.
set -eu
cd "$(dirname "$0")/.."
umask 077

word() { head -c 32 /dev/urandom | base64 | tr -d '/+=\n'; }

# keep MODE FILE: what comes in becomes FILE, unless it is there.
keep() { [ -e "$2" ] || { cat > "$2.new" && chmod "$1" "$2.new" && mv "$2.new" "$2"; }; }

mkdir -p secrets
head -c 32 /dev/urandom | keep 400 secrets/cluster
word | keep 400 secrets/redis.password
printf 'user default on >%s resetchannels ~pagewire:* &pagewire:* +@all -@admin -@dangerous\n' \
  "$(cat secrets/redis.password)" | keep 400 secrets/redis.acl
word | keep 440 secrets/metrics.key  # Prometheus and Grafana read theirs as members of our group
word | keep 440 secrets/grafana.password
{
  printf 'me: %s\n' "$(word)"
  printf 'prometheus: %s\n' "$(cat secrets/metrics.key)"
} | keep 600 secrets/api.keys

uid=$(id -u) gid=$(id -g)
if [ "$uid" = 0 ]; then  # the containers do not run as root
  uid=10001 gid=10001
  chown -R "$uid:$gid" secrets
fi
printf 'UID=%s\nGID=%s\n' "$uid" "$gid" | keep 644 .env

echo "Clients send: Authorization: Bearer $(sed -n 's/^me: //p' secrets/api.keys)"
