package main

import (
	"errors"
	"strings"

	"github.com/tablexport/tablexport/configs"
	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/secrets"
)

// hintedError is an error that came up where it is known what helps.
type hintedError struct {
	err  error
	text string // instead of the error's own, if it is not empty
	hint string
}

func (e *hintedError) Error() string {
	if e.text != "" {
		return e.text
	}
	return e.err.Error()
}

func (e *hintedError) Unwrap() error { return e.err }

// hintFor says what a person does next about an error whose own text names only what happened.
func hintFor(err error) string {
	err = first(err)
	var usage *usageError
	var problems configs.Problems
	var damaged *damagedError
	var broken *brokenAuditError
	var hinted *hintedError
	var unproven *unprovenError
	var policy *policyError
	var waiting *waitingError
	var credential *odata.CredentialError
	var change *export.SchemaChange
	var published *jobs.PublishedError
	var unresolved *delta.Unresolved
	switch {
	case errors.As(err, &policy):
		return "rotate old tokens with: tablexport tokens rotate NAME --stage-from stdin"
	case errors.As(err, &waiting):
		return "do what stands behind each arrow; what can be done without a person is done"
	case errors.Is(err, secrets.ErrPolicy):
		return "see every verdict with: tablexport policy check; have another token issued, say what is known of this one with tokens describe, or change policy"
	case errors.As(err, &usage), errors.As(err, &problems), errors.As(err, &damaged), errors.As(err, &broken):
		return "" // they say it themselves
	case errors.As(err, &hinted):
		return hinted.hint
	case errors.As(err, &credential) && (errors.Is(err, secrets.ErrClient) || errors.Is(err, secrets.ErrScopes)):
		return strings.TrimPrefix(credential.Err.Error(), "secrets: ") // no token came of the exchange: it says what to do
	case errors.As(err, &unproven):
		return "if it was issued wrongly, mark it with: tablexport tokens reject NAME VERSION; and have another one issued"
	case errors.As(err, &change):
		return "if the change is meant, run again with --accept-schema"
	case errors.As(err, &published):
		return "readers see the new version; look at what failed behind it"
	case errors.As(err, &unresolved):
		return "it is not known whether it was published; look with: tablexport datasets show JOB"
	case errors.Is(err, secrets.ErrNoActive), errors.Is(err, secrets.ErrNotFound):
		return "put the token into the vault with: tablexport tokens stage NAME --activate"
	case errors.Is(err, secrets.ErrState):
		return "look at the versions and their states with: tablexport tokens list"
	case errors.Is(err, secrets.ErrBadToken):
		return "give the token alone, as the Instance Manager shows it"
	case errors.Is(err, odata.ErrForbidden):
		return "the token is good, but its user lacks a permission; an administrator of the instance can give it"
	case errors.Is(err, secrets.ErrPermission):
		return "look at secrets: in the configuration, and at what the vault grants this login"
	case store.CodeOf(err) == store.Permission:
		return "look at the store's credentials and at what they may do"
	}
	return hintForClass(jobs.Classify(err), kept(err))
}

func hintForClass(class jobs.Class, kept string) string {
	switch class {
	case jobs.Credential:
		return "look at the token with: tablexport tokens list; replace it with: tablexport tokens stage NAME --activate"
	case jobs.Scope:
		return kept + "compare the scope's where with what the token may see"
	case jobs.Data:
		return kept + "--verbose shows the scans"
	case jobs.Later, jobs.Transient:
		return kept + "try again later"
	case jobs.Conflict:
		return kept + "someone else changed it first; look at it and try again"
	case jobs.Canceled:
		return strings.TrimSuffix(kept, "; ")
	}
	return ""
}

// kept says of a failed run what readers of the dataset see.
func kept(err error) string {
	var run *jobs.RunError
	if errors.As(err, &run) {
		return "nothing was published, the previous version stands; "
	}
	return ""
}
