#!/usr/bin/env bash
# The server's certificates, where they are missing or end within a month, and the SuperLink.
# usage: server.sh ADDRESS, the address that the participants will use. Give them ca.crt, never a file that ends in .key.
set -euo pipefail
umask 077
address=$1
state=${STATE:-/var/lib/aequa}
keys=${KEYS:-$state/keys}
mkdir -p "$keys"
if [ ! -f "$keys/ca.crt" ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -days 3650 -subj "/CN=aequa fleet" \
    -addext "basicConstraints=critical,CA:TRUE" -keyout "$keys/ca.key" -out "$keys/ca.crt"
fi
if ! openssl x509 -checkend 2592000 -noout -in "$keys/server.pem" >/dev/null 2>&1; then
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -subj "/CN=$address" \
    -keyout "$keys/server.key" -out "$keys/server.csr"
  case $address in *[!0-9.]*) name=DNS ;; *) name=IP ;; esac
  openssl x509 -req -in "$keys/server.csr" -CA "$keys/ca.crt" -CAkey "$keys/ca.key" -CAcreateserial -days 365 \
    -extfile <(printf "subjectAltName=%s:%s,IP:127.0.0.1" "$name" "$address") -out "$keys/server.pem"
fi
chmod 755 "$keys"
chmod 644 "$keys/ca.crt"
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
exec flower-superlink --host "${HOST:-0.0.0.0}" --port "${PORT:-8000}" --database "$state/superlink.db" \
  --ssl-ca-certfile "$keys/ca.crt" --ssl-certfile "$keys/server.pem" --ssl-keyfile "$keys/server.key" \
  --enable-supernode-auth --disable-runtime-dependency-installation
