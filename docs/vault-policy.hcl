# Vault policies for tablexport, for the KV version 2 engine mounted at "secret" and the prefix "tablexport".
# Change both words if your configuration names others (secrets.vault.mount, secrets.vault.prefix).
#
# There are two: give the first to the service that runs jobs, the second to the people (or the pipeline) that
# stage, verify, activate and retire tokens. Save each part as a file of its own:
#
#   vault policy write tablexport-run run.hcl
#   vault policy write tablexport-rotate rotate.hcl
#   vault write auth/approle/role/tablexport token_policies=tablexport-run token_ttl=1h token_max_ttl=24h

# ---- tablexport-run: lend tokens to jobs. It can change nothing of a token; it writes down that it uses one. ----

path "secret/data/tablexport/tokens/*" {
  capabilities = ["read"]
}

path "secret/metadata/tablexport/tokens/*" {
  capabilities = ["read", "list"]
}

path "secret/data/tablexport/state/*" {
  capabilities = ["read"]
}

# When it has used which token last, for those who retire tokens on another machine.
path "secret/data/tablexport/uses/*" {
  capabilities = ["create", "update", "read"]
}

# Made by the first "tablexport tokens stage"; stage a token before the first run.
path "secret/data/tablexport/fingerprint-key" {
  capabilities = ["read"]
}

# ---- tablexport-rotate: stage, activate and list tokens. It can delete nothing. ----

path "secret/data/tablexport/tokens/*" {
  capabilities = ["create", "update", "read"]
}

path "secret/metadata/tablexport/tokens/*" {
  capabilities = ["create", "update", "patch", "read", "list"]
}

path "secret/data/tablexport/state/*" {
  capabilities = ["create", "update", "read"]
}

path "secret/data/tablexport/uses/*" {
  capabilities = ["create", "update", "read"]
}

path "secret/data/tablexport/fingerprint-key" {
  capabilities = ["create", "read"]
}
