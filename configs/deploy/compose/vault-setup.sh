#!/bin/sh
# Gives the Vault of the Compose example the two policies of docs/vault-policy.hcl and an AppRole for each, and puts their ids where
# tablexport (and the officer) find them.
set -eu
umask 077
VAULT_TOKEN=$(cat /keys/vault-root)
export VAULT_TOKEN
vault auth list | grep -q '^approle/' || vault auth enable approle
sed -n '/^# ---- tablexport-run/,/^# ---- tablexport-rotate/p' /vault-policy.hcl | vault policy write tablexport-run -
sed -n '/^# ---- tablexport-rotate/,$p' /vault-policy.hcl | vault policy write tablexport-rotate -
for part in run rotate; do
  vault write "auth/approle/role/tablexport-$part" "token_policies=tablexport-$part" token_ttl=1h token_max_ttl=24h
  vault read -field=role_id "auth/approle/role/tablexport-$part/role-id" >"/$part-identity/role-id"
  vault write -f -field=secret_id "auth/approle/role/tablexport-$part/secret-id" >"/$part-identity/secret-id"
  chown -R 65532:65532 "/$part-identity"
done
