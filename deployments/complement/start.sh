#!/usr/bin/env bash
# Starts one server of a Complement test run. Complement gives SERVER_NAME and a certificate authority;
# CONTAINER_ROOT, if set, is a folder that this server has for itself. It runs on every start of a
# container, so what is there stays. The binary is $SECURECOMM_BIN, or the one of the image, or the one
# that "make build" left in this repository.
set -euo pipefail

: "${SERVER_NAME:?is not set: Complement sets it}"
root=${CONTAINER_ROOT:-/data}
ca=/complement/ca
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

securecomm=${SECURECOMM_BIN:-}
for candidate in "$here/../../bin/securecomm" /usr/local/bin/securecomm; do
	if [ -z "$securecomm" ] && [ -x "$candidate" ]; then securecomm=$candidate; fi
done
: "${securecomm:?no binary: run make build, or set SECURECOMM_BIN}"

mkdir -p "$root/tls"
cd "$root"

# Anew on every start: a container that was made of another one's state has another authority.
openssl ecparam -name prime256v1 -genkey -noout -out tls/server.key
openssl req -new -key tls/server.key -subj "/CN=$SERVER_NAME" -out tls/server.csr
openssl x509 -req -in tls/server.csr -CA "$ca/ca.crt" -CAkey "$ca/ca.key" -set_serial "0x$(openssl rand -hex 8)" \
	-days 2 -sha256 -extfile <(echo "subjectAltName=DNS:$SERVER_NAME") -out tls/server.crt 2>tls/openssl.log ||
	{ cat tls/openssl.log >&2; exit 1; }

cat >securecomm.yaml <<YAML
server:
  name: "$SERVER_NAME"
  data_dir: "$root/data"
  base_url: "http://$SERVER_NAME:8008"
  drain_timeout: 2s
listen:
  client: ":8008"
  federation: ":8448"
tls:
  mode: files
  cert: "$root/tls/server.crt"
  key: "$root/tls/server.key"
federation:
  enabled: true
  allow_networks: ["0.0.0.0/0", "::/0"]
  ca_files: ["$ca/ca.crt"]
media:
  preview_networks: ["0.0.0.0/0", "::/0"]
registration:
  enabled: true
  require_token: false
  shared_secret: complement
password:
  min_length: 6
rooms:
  # Tests of power levels write the creator into "users", which version 12 forbids.
  default_version: "11"
limits:
  enabled: false
log:
  level: ${SECURECOMM_COMPLEMENT_LOG_LEVEL:-info}
YAML

exec "$securecomm" serve --config "$root/securecomm.yaml"
