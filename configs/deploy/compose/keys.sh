#!/bin/sh
# Makes the keys of the Compose example, once; nothing is printed.
set -eu
umask 077
random() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
[ -s /keys/vault-root ] || random >/keys/vault-root
[ -s /keys/store-user ] || echo lake >/keys/store-user
[ -s /keys/store-password ] || random >/keys/store-password
printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$(cat /keys/store-user)" "$(cat /keys/store-password)" >/store-keys/credentials
chown -R 65532:65532 /store-keys
