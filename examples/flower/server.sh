#!/usr/bin/env bash
# The server's certificates (once), and the SuperLink. usage: server.sh ADDRESS, the address that the participants will use.
set -euo pipefail
address=$1
keys=${KEYS:-/etc/aequa}
if [ ! -f "$keys/server.pem" ]; then
  umask 077
  mkdir -p "$keys"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -days 3650 -subj "/CN=aequa fleet" \
    -addext "basicConstraints=critical,CA:TRUE" -keyout "$keys/ca.key" -out "$keys/ca.crt"
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -subj "/CN=$address" \
    -keyout "$keys/server.key" -out "$keys/server.csr"
  case $address in *[!0-9.]*) name=DNS ;; *) name=IP ;; esac
  openssl x509 -req -in "$keys/server.csr" -CA "$keys/ca.crt" -CAkey "$keys/ca.key" -CAcreateserial -days 365 \
    -extfile <(printf 'subjectAltName=%s:%s' "$name" "$address") -out "$keys/server.pem"
  chmod 644 "$keys/ca.crt"
fi
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
exec flower-superlink --host 0.0.0.0 --port "${PORT:-8000}" --database "${STATE:-/var/lib/aequa}/superlink.db" \
  --ssl-ca-certfile "$keys/ca.crt" --ssl-certfile "$keys/server.pem" --ssl-keyfile "$keys/server.key" \
  --enable-supernode-auth --disable-runtime-dependency-installation
