// Package secrets lends service tokens out of a vault, and audits every loan.
//
// One function, [Keeper.Lease], authorises a loan, writes it to the audit log, and only then reads the token from
// the vault. What it returns is a [Lease]: it can put the token on a request to the one host the token is bound to,
// and nothing else. A [Token] prints, logs and marshals as "[redacted]"; people see its fingerprint.
//
// Versions are activated, never overwritten: staging a token adds a version, activating moves one
// pointer with check-and-set, and the old version stays where it is.
//
// A [Policy] says what a token must be like to be lent. What is known of a token beside its value ([Attributes]) and which places use it ([PlaceUse]) stand in the vault,
// where every machine sees them. [Keeper.Rotate] takes a token from one version to the next.
//
// Values are kept on pages of their own outside of Go's heap, which are neither swapped nor dumped (memory.go says what that covers and what not).
//
// Drivers: hashivault (HashiCorp Vault KV v2), filevault (an age-encrypted file), memvault (tests). Each passes secretstest.
package secrets
